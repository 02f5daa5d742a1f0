//! Looking for a byte, eight at a time: what is done with each path and name.

const LOWEST: u64 = 0x0101_0101_0101_0101;
const HIGHEST: u64 = LOWEST << 7;

/// Where the first byte of this value is.
#[inline]
#[must_use]
pub fn position(bytes: &[u8], wanted: u8) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        if let Some(at) = first(u64::from_le_bytes(*word), wanted) {
            return Some(index * 8 + at);
        }
    }
    // What is missing of the last word is zero.
    let at = first(short(rest), wanted).filter(|at| *at < rest.len())?;
    Some(words.len() * 8 + at)
}

/// Whether a byte of one of these values is there.
#[inline]
#[must_use]
pub fn has_either(bytes: &[u8], one: u8, other: u8) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word);
        if marks(word, one) | marks(word, other) != 0 {
            return true;
        }
    }
    let last = short(rest);
    let used = (1 << (8 * rest.len())) - 1;
    (marks(last, one) | marks(last, other)) & used != 0
}

/// The highest bit of the lowest byte that is wanted, and perhaps those of bytes behind it.
#[inline]
fn marks(word: u64, wanted: u8) -> u64 {
    // A byte that is wanted is zero, and the lowest zero is the lowest byte for which one is borrowed.
    let differs = word ^ (LOWEST * wanted as u64);
    differs.wrapping_sub(LOWEST) & !differs & HIGHEST
}

#[inline]
fn first(word: u64, wanted: u8) -> Option<usize> {
    let found = marks(word, wanted);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Fewer than eight bytes as a word, the first the lowest.
#[inline]
#[must_use]
pub fn short(bytes: &[u8]) -> u64 {
    let length = bytes.len();
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => {
            let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
            // What is in both is the same.
            u64::from(first) | u64::from(last) << (8 * (length & 7) - 32)
        }
        _ if length == 0 => 0,
        _ => {
            let (middle, end) = (length / 2, length - 1);
            let byte = |at: usize| u64::from(bytes[at]) << (8 * at);
            byte(0) | byte(middle) | byte(end)
        }
    }
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
                    assert!(!has_either(&bytes, wanted, other ^ 0x55));
                    bytes[at] = wanted;
                    assert_eq!(position(&bytes, wanted), Some(at));
                    assert!(has_either(&bytes, wanted, other ^ 0x55));
                    assert!(has_either(&bytes, other ^ 0x55, wanted));
                    bytes[length - 1] = wanted;
                    assert_eq!(position(&bytes, wanted), Some(at));
                }
            }
        }
    }

    #[test]
    fn short_texts_are_their_words() {
        for length in 0..8 {
            let bytes: Vec<u8> = (1..=length as u8).collect();
            let mut word = [0; 8];
            word[..length].copy_from_slice(&bytes);
            assert_eq!(short(&bytes), u64::from_le_bytes(word));
        }
    }
}
