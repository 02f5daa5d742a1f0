//! The entries of a directory, all names in one piece of memory: most are listed once and then let go of.

/// Entries of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    names: Vec<u8>,
    entries: Vec<Fixed>,
}

/// What an entry has besides its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    inode: u64,
    kind: u32,
    /// Where the name ends, and the next one begins.
    end: usize,
}

/// An entry of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The file's number.
    pub inode: u64,
    /// Type bits of its mode; zero if the host does not say.
    pub kind: u32,
    /// The name.
    pub name: &'a [u8],
}

impl Listing {
    /// Adds an entry at the end.
    #[inline]
    pub fn push(&mut self, entry: Listed<'_>) {
        self.names.extend_from_slice(entry.name);
        self.entries.push(Fixed { inode: entry.inode, kind: entry.kind, end: self.names.len() });
    }

    /// Takes all entries out; their memory is kept.
    pub fn clear(&mut self) {
        self.names.clear();
        self.entries.clear();
    }

    /// The entries but for so many at the beginning.
    #[inline]
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = Listed<'_>> {
        let first = first.min(self.entries.len());
        let mut start = first.checked_sub(1).map_or(0, |before| self.entries[before].end);
        self.entries[first..].iter().map(move |&Fixed { inode, kind, end }| {
            let name = &self.names[start..end];
            start = end;
            Listed { inode, kind, name }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_as_they_went_in() {
        let mut listing = Listing::default();
        let entries = [(3, 1, "one"), (5, 2, ""), (7, 3, "three")];
        let entry =
            |(inode, kind, name): (u64, u32, &'static str)| Listed { inode, kind, name: name.as_bytes() };
        entries.map(entry).into_iter().for_each(|entry| listing.push(entry));
        for first in 0..5 {
            let expected: Vec<_> = entries.map(entry).into_iter().skip(first).collect();
            assert_eq!(listing.iter_from(first).collect::<Vec<_>>(), expected);
        }
        listing.clear();
        assert_eq!(listing.iter_from(0).count(), 0);
    }
}
