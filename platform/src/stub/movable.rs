//! Which machine instructions do the same at another address, and how long they are.

/// The longest that are known.
pub const LENGTH_MAX: usize = 14;

/// The length of the instruction that the bytes begin with, if it is a common one that neither depends on where it is nor
/// leads elsewhere.
pub fn length(bytes: &[u8; LENGTH_MAX]) -> Option<usize> {
    let fs = usize::from(bytes[0] == 0x64);
    let rex = bytes[fs] & 0xf0 == 0x40;
    let wide = rex && bytes[fs] & 0x08 != 0;
    let prefixes = fs + usize::from(rex);
    let opcode = bytes[prefixes];
    let operands =
        operands_length(&bytes[prefixes + 1..]).filter(|_| opcode != 0x8d || bytes[prefixes + 1] < 0xc0);
    let (operands, constant) = match opcode {
        // cmp $constant, %eax
        0x3d => (0, 4),
        // mov $constant, %reg
        0xb8..=0xbf => (0, if wide { 8 } else { 4 }),
        // add, or, and, sub, xor, cmp, movslq, test, mov, lea: with a register, to or from it
        0x01 | 0x03 | 0x09 | 0x0b | 0x21 | 0x23 | 0x29 | 0x2b | 0x31 | 0x33 | 0x39 | 0x3b | 0x63 => {
            (operands?, 0)
        }
        0x84 | 0x85 | 0x88..=0x8b | 0x8d => (operands?, 0),
        // The same with a constant.
        0x80 | 0x83 => (operands?, 1),
        0x81 => (operands?, 4),
        0xc6 | 0xc7 if bytes[prefixes + 1] & 0x38 == 0 => (operands?, if opcode == 0xc6 { 1 } else { 4 }),
        _ => return None,
    };
    let length = prefixes + 1 + operands + constant;
    (length <= LENGTH_MAX).then_some(length)
}

/// The length of the bytes that say what the operands are, `None` if one is relative to the instruction's address.
fn operands_length(bytes: &[u8]) -> Option<usize> {
    let (mode, register) = (bytes[0] >> 6, bytes[0] & 7);
    if mode == 3 {
        return Some(1);
    }
    let scaled = usize::from(register == 4);
    let absolute = scaled == 1 && bytes[1] & 7 == 5;
    let displacement = match mode {
        0 if register == 5 => return None,
        0 if absolute => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(1 + scaled + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, FlowControl};

    #[test]
    fn what_is_said_of_an_instruction_is_right() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut known = 0;
        for _ in 0..2_000_000 {
            let mut bytes = [0; LENGTH_MAX];
            for chunk in bytes.chunks_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
            }
            let Some(length) = length(&bytes) else { continue };
            known += 1;
            let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
            assert_eq!((instruction.is_invalid(), instruction.len()), (false, length), "{bytes:x?}");
            assert_eq!(instruction.flow_control(), FlowControl::Next, "{bytes:x?}");
            assert!(!instruction.is_ip_rel_memory_operand(), "{bytes:x?}");
        }
        assert!(known > 100_000, "{known}");
    }

    #[test]
    fn what_stands_behind_calls_is_known() {
        let of = |start: &[u8]| {
            let mut bytes = [0xcc; LENGTH_MAX];
            bytes[..start.len()].copy_from_slice(start);
            length(&bytes)
        };
        // cmp $-4095, %rax and %eax; mov 0x28(%r12), %rax; test %rax, %rax; sub %fs:0x28, %rax
        assert_eq!(of(&[0x48, 0x3d, 1, 0xf0, 0xff, 0xff]), Some(6));
        assert_eq!(of(&[0x3d, 0, 0xf0, 0xff, 0xff]), Some(5));
        assert_eq!(of(&[0x49, 0x8b, 0x44, 0x24, 0x28]), Some(5));
        assert_eq!(of(&[0x48, 0x85, 0xc0]), Some(3));
        assert_eq!(of(&[0x64, 0x48, 0x2b, 0x04, 0x25, 0x28, 0, 0, 0]), Some(9));
        assert_eq!(of(&[0xc3]), None);
        assert_eq!(of(&[0x74, 5]), None);
        assert_eq!(of(&[0xff, 0xe0]), None);
    }
}
