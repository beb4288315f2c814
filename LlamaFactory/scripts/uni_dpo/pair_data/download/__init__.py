"""MM-RLHF's files: fetched with their checksums, archives unpacked without trusting them."""
