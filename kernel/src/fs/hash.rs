//! Hashing of names and numbers for the tables that each walk asks.
//!
//! The standard library's hasher withstands anybody and takes longer than everything else that is done for a name. This one
//! multiplies and folds; what keeps guests from choosing names that collide is that its keys are random.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

/// An odd number without a pattern.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The keys of this process.
static KEYS: LazyLock<[u64; 2]> = LazyLock::new(|| {
    let random = RandomState::new();
    [random.hash_one(0), random.hash_one(1) | 1]
});

/// Makes [`Folding`] hashers.
#[derive(Clone, Copy, Debug)]
pub struct Keyed([u64; 2]);

impl Default for Keyed {
    fn default() -> Keyed {
        Keyed(*KEYS)
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { state: self.0[0], key: self.0[1] }
    }
}

/// A hash in the making.
pub struct Folding {
    state: u64,
    key: u64,
}

impl Folding {
    fn take(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key);
        self.state = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.take(u64::from_le_bytes(*word)));
        self.take(abi::bytes::short(rest) ^ (rest.len() as u64) << 56);
    }

    fn write_u8(&mut self, number: u8) {
        self.take(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.take(number);
    }

    fn write_i64(&mut self, number: i64) {
        self.take(number.cast_unsigned());
    }

    fn write_usize(&mut self, number: usize) {
        self.take(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.take(number as u64);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(FACTOR);
        (product as u64) ^ (product >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_numbers_spread() {
        let keyed = Keyed::default();
        let hashes: HashSet<u64> = (0..100_000u64)
            .flat_map(|number| {
                [keyed.hash_one(number), keyed.hash_one(format!("file-{number}.txt").as_bytes())]
            })
            .collect();
        assert_eq!(hashes.len(), 200_000);
        // A table looks at the highest and at the lowest bits.
        let low: HashSet<u64> = (0..4096u64).map(|number| keyed.hash_one(number << 12) & 0xffff).collect();
        let high: HashSet<u64> = (0..4096u64).map(|number| keyed.hash_one(number << 12) >> 48).collect();
        assert!(low.len() > 3600 && high.len() > 3600, "{} {}", low.len(), high.len());
    }

    #[test]
    fn the_end_of_a_name_counts() {
        let keyed = Keyed::default();
        let names: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"12345678", b"12345678\0", b"12345679"];
        let hashes: HashSet<u64> = names.iter().map(|name| keyed.hash_one(name)).collect();
        assert_eq!(hashes.len(), names.len());
    }
}
