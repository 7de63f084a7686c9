//! Nodes as hosts.

use std::collections::BTreeMap;

use berth_engine::{HostFacts, InterfaceFacts};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

/// 32 hexadecimal digits, as the machine itself has it.
pub(crate) fn machine_id(node: &Node) -> Option<String> {
    let id = &node.status.as_ref()?.node_info.as_ref()?.machine_id;
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    (!digits.is_empty()).then(|| digits.to_ascii_lowercase())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A quantity as a number of its unit, rounded up: `1500m` CPUs are 2, `16Gi` are 17179869184.
fn number(quantity: &str) -> Option<u64> {
    let end = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (digits, suffix) = quantity.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return None,
    };
    Some((digits.parse::<f64>().ok()? * factor).ceil() as u64)
}

fn capacity(node: &Node, of: &str) -> Option<u64> {
    let all: &BTreeMap<String, Quantity> = node.status.as_ref()?.capacity.as_ref()?;
    number(&all.get(of)?.0)
}

/// What is known of a node that is ready.
pub(crate) fn facts(node: &Node) -> Option<HostFacts> {
    if !is_ready(node) {
        return None;
    }
    let status = node.status.as_ref()?;
    let info = status.node_info.as_ref()?;
    let addresses = status.addresses.iter().flatten().filter(|address| address.type_ == "InternalIP");
    let interfaces = addresses.map(|address| InterfaceFacts {
        name: "InternalIP".into(),
        address: address.address.clone(),
        real: true,
    });
    Some(HostFacts {
        id: machine_id(node)?,
        name: node.name_any(),
        cpus: capacity(node, "cpu")?,
        memory: capacity(node, "memory")?,
        disks: Vec::new(),
        interfaces: interfaces.collect(),
        system: info.operating_system.clone(),
        distribution: info.os_image.clone(),
        kernel: info.kernel_version.clone(),
        architecture: info.architecture.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn quantities_are_read() {
        let read = ["2", "1500m", "16Gi", "24561168Ki", "1.5G", "x", "5Q"].map(number);
        let gib = 1 << 30;
        assert_eq!(read, [Some(2), Some(2), Some(16 * gib), Some(24_561_168 * 1024), Some(1_500_000_000), None, None]);
    }
}
