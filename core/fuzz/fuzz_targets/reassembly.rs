#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| passive_dns_fuzz::reassembly::check(octets));
