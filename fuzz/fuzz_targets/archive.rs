#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (_, target) = berth_fuzz::TARGETS.iter().find(|(name, _)| *name == "archive").expect("the target");
    target(bytes);
});
