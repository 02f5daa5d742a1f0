//! A vector of guest buffers, and how far a transfer has come in it.

use std::ops::{Deref, DerefMut};

use super::IoVec;
use crate::task::CurrentTask;

/// Up to so many bytes in all, the pieces of a vector are copied together.
pub(super) const SMALL_VECTOR: usize = 32 * 1024;
/// How many pieces of a vector are copied at a time.
const PIECES_MAX: usize = 64;

/// Guest buffers: mostly it is one, for which no memory is needed.
#[derive(Clone)]
pub enum Vectors {
    /// One.
    One([IoVec; 1]),
    /// Any number.
    Many(Vec<IoVec>),
}

impl From<Vec<IoVec>> for Vectors {
    fn from(vectors: Vec<IoVec>) -> Vectors {
        Vectors::Many(vectors)
    }
}

impl From<IoVec> for Vectors {
    fn from(vector: IoVec) -> Vectors {
        Vectors::One([vector])
    }
}

impl Deref for Vectors {
    type Target = [IoVec];

    #[inline]
    fn deref(&self) -> &[IoVec] {
        match self {
            Vectors::One(one) => one,
            Vectors::Many(many) => many,
        }
    }
}

impl DerefMut for Vectors {
    fn deref_mut(&mut self) -> &mut [IoVec] {
        match self {
            Vectors::One(one) => one,
            Vectors::Many(many) => many,
        }
    }
}

/// The position in a vector of guest buffers.
pub(super) struct Cursor<'a> {
    pub(super) task: &'a CurrentTask,
    pub(super) vectors: Vectors,
    pub(super) index: usize,
    pub(super) offset: u64,
    pub(super) remaining: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(task: &'a CurrentTask, vectors: Vectors) -> Cursor<'a> {
        let remaining = vectors.iter().map(|v| v.length as usize).sum();
        Cursor { task, vectors, index: 0, offset: 0, remaining }
    }

    /// The next contiguous piece: address and length, never empty.
    pub(super) fn piece(&mut self) -> Option<(u64, usize)> {
        while let Some(vector) = self.vectors.get(self.index) {
            if self.offset < vector.length {
                return Some((vector.base.wrapping_add(self.offset), (vector.length - self.offset) as usize));
            }
            self.index += 1;
            self.offset = 0;
        }
        None
    }

    /// The pieces that the next `count` bytes are, if they are several, but not too many, and small enough to be copied all at
    /// once.
    pub(super) fn pieces(&self, count: usize) -> Option<Vec<(u64, usize)>> {
        let (mut index, mut offset, mut left) = (self.index, self.offset, count as u64);
        // The usual case.
        let whole = |vector: &IoVec| vector.length.saturating_sub(offset) >= left;
        if count > SMALL_VECTOR || self.vectors.get(index).is_none_or(whole) {
            return None;
        }
        let mut pieces = Vec::with_capacity((self.vectors.len() - index).min(PIECES_MAX));
        while left > 0 {
            let vector = self.vectors.get(index)?;
            let length = vector.length.saturating_sub(offset).min(left);
            if length > 0 {
                if pieces.len() == PIECES_MAX {
                    return None;
                }
                pieces.push((vector.base.wrapping_add(offset), length as usize));
            }
            left -= length;
            (index, offset) = (index + 1, 0);
        }
        (pieces.len() > 1).then_some(pieces)
    }

    /// Takes the next `count` bytes, in however many pieces.
    pub(super) fn advance_over(&mut self, mut count: usize) {
        while let Some((_, length)) = self.piece().filter(|_| count > 0) {
            let step = length.min(count);
            self.advance(step);
            count -= step;
        }
    }

    pub(super) fn limit(&mut self, count: usize) {
        self.remaining = self.remaining.min(count);
        let mut room = count as u64 + self.offset;
        for vector in &mut self.vectors[self.index..] {
            vector.length = vector.length.min(room);
            room -= vector.length;
        }
    }

    pub(super) fn advance(&mut self, count: usize) {
        self.offset += count as u64;
        self.remaining -= count;
    }
}
