#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostler_fuzz::vmm::guest_reply(data));
