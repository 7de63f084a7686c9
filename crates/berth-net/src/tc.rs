//! Rate limits: one token bucket (tc-tbf(8)) at a link's root, over rtnetlink.

use crate::netlink::{Error, Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_REPLACE, Socket, attribute};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// `TC_H_ROOT`: the parent of a link's own queue.
const ROOT: u32 = 0xffff_ffff;
const FIRST_HANDLE: u32 = 1 << 16;
const SECOND_HANDLE: u32 = 2 << 16;

/// `struct tcmsg` of a link's root queue. A `handle` of 0 leaves the choice to the kernel.
fn tcmsg(index: u32, handle: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    header
}

/// The token bucket at a link's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    handle: u32,
    /// Bytes per second.
    rate: u64,
}

fn bucket(socket: &mut Socket, index: u32) -> Result<Option<Bucket>, Error> {
    let mut found = None;
    // Kernels before 6.12 send the answer only to the groups that listen, unless the request asks for an echo.
    let flags = NLM_F_ACK | NLM_F_ECHO;
    let read = Message::new(format!("read the rate of link {index}"), RTM_GETQDISC, flags, &tcmsg(index, 0));
    let result = socket.dump(read, |kind, body| {
        if kind == RTM_NEWQDISC && body.len() >= 20 {
            found = parse(&body[8..12], &body[20..]);
        }
    });
    match result {
        Ok(()) => Ok(found),
        // The link has no queue but the kernel's own.
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(handle: &[u8], attributes: &[u8]) -> Option<Bucket> {
    attribute(attributes, TCA_KIND).filter(|kind| *kind == b"tbf\0")?;
    let options = attribute(attributes, TCA_OPTIONS)?;
    let rate = match attribute(options, TCA_TBF_RATE64) {
        Some(rate) => u64::from_ne_bytes(rate.try_into().ok()?),
        None => u32::from_ne_bytes(attribute(options, TCA_TBF_PARMS)?.get(8..12)?.try_into().ok()?).into(),
    };
    Some(Bucket { handle: u32::from_ne_bytes(handle.try_into().ok()?), rate })
}

/// For fuzz targets: reads a queue.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(body: &[u8]) {
    if body.len() >= 20 {
        let _ = parse(&body[8..12], &body[20..]);
    }
}

/// Bytes that may go at once: 5 ms of the rate, so that timers need not be exact, but a quarter of a second at most of a
/// slow one, and two packets at least.
fn burst(rate: u64) -> u64 {
    (rate / 200).max((rate / 4).min(16 * 1024)).clamp(3028, 64 << 20)
}

/// Bytes that wait beyond the burst before packets are dropped: 200 ms, and room for four segments of 64 KiB: measured, enough
/// for one connection of a sender on this machine (TCP small queues) that still believes in the rate that it had before. Where its last
/// segment does not fit, the end is dropped, and the sender notices a lost end only by its timer, which at a slow rate takes
/// seconds: after a change to a higher rate it would send nothing until then.
fn queue(rate: u64) -> u64 {
    (rate / 5).clamp(256 * 1024, 64 << 20)
}

/// Bytes per second on the wire for a rate of the network layer: traffic is counted without Ethernet headers, so it is capped
/// without them. Exact for full packets (1514 bytes for 1500), a little less for short ones.
fn on_the_wire(rate: u64) -> u64 {
    u64::try_from(u128::from(rate) * 1514 / 1500).unwrap_or(u64::MAX)
}

/// Bounds what goes out by link `index`, to `bits` per second; `None` lifts the bound. Live: a changed rate holds from the
/// next packet on.
///
/// A bucket that shrinks never sends a packet that was queued before and is longer than the new burst (a segment of up to
/// 64 KiB), and no packet behind it. So a smaller bucket is a new one, under another handle, and what was queued is dropped
/// with the old one: the sender's protocol repeats it. A larger bucket is changed in place and drops nothing.
pub(crate) fn limit(socket: &mut Socket, index: u32, bits: Option<u64>) -> Result<(), Error> {
    let Some(bits) = bits else {
        let what = format!("lift the rate of link {index}");
        let delete = Message::new(what, RTM_DELQDISC, NLM_F_ACK, &tcmsg(index, 0));
        return match socket.send(vec![delete]) {
            // There was none.
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            other => other,
        };
    };
    let rate = on_the_wire((bits / 8).max(1));
    let handle = match bucket(socket, index)? {
        Some(now) if burst(rate) >= burst(now.rate) => now.handle,
        Some(now) if now.handle == FIRST_HANDLE => SECOND_HANDLE,
        _ => FIRST_HANDLE,
    };
    let (burst, queue) = (burst(rate), queue(rate));
    // struct tc_tbf_qopt: two struct tc_ratespec, limit, buffer, mtu. A linklayer (1 is Ethernet) saves the rate table.
    let mut options = [0u8; 36];
    options[1] = 1;
    options[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    options[24..28].copy_from_slice(&((burst + queue) as u32).to_ne_bytes());
    let mut message = Message::new(
        format!("set the rate of link {index} to {bits} bit/s"),
        RTM_NEWQDISC,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        &tcmsg(index, handle),
    )
    .text(TCA_KIND, "tbf");
    message = message.nest(TCA_OPTIONS, |m| {
        let m = m.bytes(TCA_TBF_PARMS, &options).u32(TCA_TBF_BURST, burst as u32);
        if rate > u64::from(u32::MAX) { m.bytes(TCA_TBF_RATE64, &rate.to_ne_bytes()) } else { m }
    });
    socket.send(vec![message])
}

#[cfg(test)]
mod tests {
    use super::{burst, on_the_wire, queue};

    #[test]
    fn bursts_are_short_and_hold_packets() {
        assert_eq!(burst(12_500), 3125, "0.1 Mbit/s: a quarter of a second");
        assert_eq!(burst(1_250_000), 16_384);
        assert_eq!(burst(1_250_000_000), 6_250_000, "10 Gbit/s: 5 ms");
        assert_eq!(burst(1), 3028);
        assert_eq!((queue(12_500), queue(1_250_000_000)), (262_144, 64 << 20));
        assert_eq!(on_the_wire(12_500), 12_616);
    }
}
