//! What a processor can run: variants of an architecture, as images name them.

/// How well a variant of an architecture fits, the more the better; `None` if it can't be run, or is not what was asked for.
///
/// `asked` is a variant that somebody named; without, the best that this machine's processor runs, if `own` is true (the
/// architecture is this machine's), else the plain one.
pub fn rank_of_variant(architecture: &str, asked: Option<&str>, offered: &str, own: bool) -> Option<u32> {
    let offered = level(architecture, offered)?;
    if let Some(asked) = asked.filter(|asked| !asked.is_empty()) {
        let asked = level(architecture, asked)?;
        // A 32-bit ARM runs what is made for its predecessors.
        let fits = if architecture == "arm" { offered <= asked } else { offered == asked };
        return fits.then_some(offered);
    }
    if own {
        return (offered <= level_of_cpu()).then_some(offered);
    }
    // The plain one first.
    Some(u32::MAX - offered)
}

/// A variant as a number that grows; `None` for one that is not known.
fn level(architecture: &str, variant: &str) -> Option<u32> {
    let number = |text: &str| text.trim_start_matches('v').parse::<u32>().ok();
    match (architecture, variant) {
        ("amd64", "") => Some(10),
        ("arm64", "") => Some(80),
        ("arm", "") => Some(70),
        (_, "") => Some(0),
        (_, variant) => match variant.split_once('.') {
            Some((major, minor)) => Some(number(major)? * 10 + minor.parse::<u32>().ok().filter(|m| *m < 10)?),
            None => Some(number(variant)? * 10),
        },
    }
}

/// The highest level of its architecture that this processor has (x86-64 psABI; Arm Architecture Reference Manual).
#[cfg(target_arch = "x86_64")]
fn level_of_cpu() -> u32 {
    use std::arch::is_x86_feature_detected as has;
    let second =
        has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let third = second && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma");
    let third = third && has!("lzcnt") && has!("movbe");
    let fourth =
        third && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (second, third, fourth) {
        (_, _, true) => 40,
        (_, true, _) => 30,
        (true, ..) => 20,
        _ => 10,
    }
}

/// The highest level of its architecture that this processor has.
#[cfg(target_arch = "aarch64")]
fn level_of_cpu() -> u32 {
    use std::arch::is_aarch64_feature_detected as has;
    match (has!("lse") && has!("rdm"), has!("sve2")) {
        (true, true) => 90,
        (true, false) => 81,
        _ => 80,
    }
}

/// The highest level of its architecture that this processor has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn level_of_cpu() -> u32 {
    0
}

#[cfg(test)]
mod tests {
    use super::{level_of_cpu, rank_of_variant};

    #[test]
    fn the_best_that_runs_is_taken() {
        let rank = rank_of_variant;
        assert_eq!(rank("amd64", Some("v2"), "v2", true), Some(20));
        assert_eq!(rank("amd64", Some("v2"), "v3", true), None);
        assert_eq!(rank("amd64", Some("v1"), "", true), Some(10), "the plain one is the first");
        assert_eq!(rank("arm64", Some("v8"), "", false), Some(80));
        assert_eq!(rank("arm", Some("v7"), "v6", false), Some(60), "an older one runs");
        assert_eq!(rank("arm", Some("v6"), "v7", false), None);
        assert!(rank("arm64", None, "", false) > rank("arm64", None, "v9", false), "the plain one of another machine");
        assert_eq!(rank("amd64", None, "strange", true), None);
        let architecture = crate::architecture();
        let plain = rank(architecture, None, "", true).expect("every processor runs the plain one");
        assert!(plain <= level_of_cpu());
        assert_eq!(rank(architecture, None, "v99", true), None);
    }
}
