//! Looking for a byte, eight at a time: what is done with each path and name.

/// Where the first byte of this value is.
#[inline]
#[must_use]
pub fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    const LOWEST: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = LOWEST << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        // A byte that is wanted is zero, and the lowest zero is the lowest byte from which one is borrowed.
        let differs = u64::from_le_bytes(*word) ^ (LOWEST * wanted as u64);
        let found = differs.wrapping_sub(LOWEST) & !differs & HIGHEST;
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte == wanted)?;
    Some(words.len() * 8 + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_found_wherever_it_is() {
        for length in 0..40 {
            for at in 0..length {
                for (wanted, other) in
                    [(0u8, 1u8), (0, 0x80), (b'/', b'.'), (b'/', 0xaf), (0xff, 0xfe), (1, 0)]
                {
                    let mut bytes = vec![other; length];
                    assert_eq!(position(&bytes, wanted), None);
                    bytes[at] = wanted;
                    assert_eq!(position(&bytes, wanted), Some(at));
                    bytes[length - 1] = wanted;
                    assert_eq!(position(&bytes, wanted), Some(at));
                }
            }
        }
    }
}
