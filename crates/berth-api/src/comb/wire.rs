//! The shapes of the answers, as documented.

use std::collections::BTreeMap;

use berth_core::{Charge, Core, NetworkCharge, PlanOperation, PlanProgress, Planned, SshKey};
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Token {
    pub(super) token: String,
    /// Seconds, as text.
    pub(super) expires_in: String,
}

#[derive(Debug, Serialize)]
pub(super) struct SecretKey {
    id: i64,
    name: String,
    fingerprint: String,
    created_at: String,
}

impl SecretKey {
    pub(super) fn of(key: SshKey) -> Self {
        Self { id: key.id, name: key.name, fingerprint: key.fingerprint, created_at: time(key.created_at) }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Images {
    pub(super) custom_images: Vec<Image>,
    pub(super) public_images: Vec<Image>,
}

#[derive(Debug, Serialize)]
pub(super) struct Image {
    tag: String,
    desc: String,
    pub(super) weight: i64,
    id: i64,
    name: String,
    constraint: Option<Constraint>,
}

#[derive(Debug, Serialize)]
struct Constraint {
    min_combo: i64,
    max_combo: i64,
    min_machine_spec: i64,
    max_machine_spec: i64,
}

impl Image {
    pub(super) fn of(core: &Core, image: &berth_core::Image, full_name: &str) -> Self {
        let (name, tag) = match full_name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, tag),
            _ => (full_name, "latest"),
        };
        let settings = core.settings();
        let plans = &settings.plans;
        let note = plans.images.get(full_name);
        let label = image.config.config.labels.get("org.opencontainers.image.description");
        // Bounds that an administrator left open are those of all specs.
        let specs: Vec<i64> = plans.specs.keys().filter_map(|number| number.parse().ok()).collect();
        let all = (specs.iter().min().copied().unwrap_or(0), specs.iter().max().copied().unwrap_or(0));
        let constraint = note.filter(|note| note.packages.is_some() || note.specs.is_some()).map(|note| {
            let ((min_combo, max_combo), (min_machine_spec, max_machine_spec)) =
                (note.packages.unwrap_or(all), note.specs.unwrap_or(all));
            Constraint { min_combo, max_combo, min_machine_spec, max_machine_spec }
        });
        let desc = note.map(|note| note.description.clone()).filter(|text| !text.is_empty());
        Self {
            tag: tag.to_owned(),
            desc: desc.or_else(|| label.cloned()).unwrap_or_default(),
            weight: note.map_or(0, |note| note.weight),
            id: image.id,
            name: name.to_owned(),
            constraint,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Created {
    pub(super) id: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Tagged {
    /// A number, as text.
    pub(super) image_id: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Flow {
    pub(super) container_up_flow: String,
    pub(super) container_down_flow: String,
}

/// MB of 10^6 bytes, one decimal.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = (u128::from(bytes) + 50_000) / 100_000;
    format!("{}.{}MB", tenths / 10, tenths % 10)
}

/// ISO 8601, UTC, to the second.
fn time(at: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(at.into()) else { return String::new() };
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[derive(Debug, Serialize)]
pub(super) struct Containers {
    pub(super) total: i64,
    pub(super) containers: Vec<Container<Vec<i64>>>,
}

/// A container; `K` is how the numbers of its keys are shown: an array in lists, and text by itself.
#[derive(Debug, Serialize)]
pub(super) struct Container<K> {
    id: i64,
    name: String,
    desc: String,
    status: &'static str,
    bandwidth: i64,
    replicas: i64,
    charge_type: i64,
    spec_id: i64,
    created_at: String,
    updated_at: String,
    public_ip: Option<String>,
    private_ip: Option<String>,
    ssh_key_ids: K,
    network_charge_type: i64,
    image_id: i64,
    use_public_network: i64,
    env_var: BTreeMap<String, String>,
}

pub(super) fn charge(number: i64) -> Option<Charge> {
    match number {
        1 => Some(Charge::Package),
        2 => Some(Charge::Use),
        _ => None,
    }
}

pub(super) fn network_charge(number: i64) -> Option<NetworkCharge> {
    match number {
        1 => Some(NetworkCharge::Bandwidth),
        2 => Some(NetworkCharge::Traffic),
        _ => None,
    }
}

fn status(operation: PlanOperation, progress: PlanProgress) -> &'static str {
    use PlanOperation::{Create, Delete, Resize, Update};
    use PlanProgress::{Failed, Succeeded, TimedOut, UnderWay};
    match (operation, progress) {
        (Create, UnderWay) => "creating",
        (Create, Succeeded) => "create_succ",
        (Create, Failed) => "create_fail",
        (Create, TimedOut) => "create_timeout",
        (Update, UnderWay) => "updating",
        (Update, Succeeded) => "update_succ",
        (Update, Failed) => "update_fail",
        (Update, TimedOut) => "update_timeout",
        (Resize, UnderWay) => "resizing",
        (Resize, Succeeded) => "resize_succ",
        (Resize, Failed) => "resize_fail",
        (Resize, TimedOut) => "resize_timeout",
        (Delete, UnderWay) => "deleting",
        (Delete, Succeeded) => "delete_succ",
        (Delete, Failed) => "delete_fail",
        (Delete, TimedOut) => "delete_timeout",
    }
}

impl Container<Vec<i64>> {
    pub(super) fn of(core: &Core, planned: Planned) -> Self {
        let Planned { container, plan, operation, progress, updated_at } = planned;
        let public = core.public_address().filter(|_| plan.public);
        Self {
            id: container.id,
            name: container.name,
            desc: plan.description,
            status: status(operation, progress),
            bandwidth: plan.bandwidth.unwrap_or(0),
            replicas: 1,
            charge_type: match plan.charge {
                Charge::Package => 1,
                Charge::Use => 2,
            },
            spec_id: plan.spec,
            created_at: time(container.created_at),
            updated_at: time(updated_at),
            public_ip: public.map(|address| address.to_string()),
            private_ip: container.address.map(|address| address.to_string()),
            ssh_key_ids: plan.ssh_keys,
            network_charge_type: match plan.network_charge {
                None => 0,
                Some(NetworkCharge::Bandwidth) => 1,
                Some(NetworkCharge::Traffic) => 2,
            },
            image_id: plan.image,
            use_public_network: i64::from(plan.public),
            env_var: plan.env,
        }
    }

    /// As it is shown by itself.
    pub(super) fn alone(self) -> Container<String> {
        let keys: Vec<String> = self.ssh_key_ids.iter().map(i64::to_string).collect();
        Container {
            ssh_key_ids: keys.join(","),
            id: self.id,
            name: self.name,
            desc: self.desc,
            status: self.status,
            bandwidth: self.bandwidth,
            replicas: self.replicas,
            charge_type: self.charge_type,
            spec_id: self.spec_id,
            created_at: self.created_at,
            updated_at: self.updated_at,
            public_ip: self.public_ip,
            private_ip: self.private_ip,
            network_charge_type: self.network_charge_type,
            image_id: self.image_id,
            use_public_network: self.use_public_network,
            env_var: self.env_var,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{megabytes, time};

    #[test]
    fn bytes_are_shown_with_one_decimal_and_times_to_the_second() {
        assert_eq!(megabytes(0), "0.0MB");
        assert_eq!(megabytes(1_234_000_000), "1234.0MB");
        assert_eq!(
            (megabytes(49_999), megabytes(50_000), megabytes(999_999)),
            ("0.0MB".into(), "0.1MB".into(), "1.0MB".into())
        );
        assert_eq!(megabytes(u64::MAX), "18446744073709.6MB");
        assert_eq!(time(1_458_366_257_987_654_321), "2016-03-19T05:44:17Z");
    }
}
