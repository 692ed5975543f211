#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostler_fuzz::identity::bundle_pem(data));
