//! How values look in a message: integers as this machine has them (both ends run on it), bytes with their length in
//! front, lists with their count. Decoding checks every length against what is there before anything is allocated.

/// What is left of a message.
pub struct Input<'a>(&'a [u8]);

/// A message that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl<'a> Input<'a> {
    /// The whole of a message.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    /// Takes so many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// A value that can be in a message.
pub trait Wire<'a>: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes it from the front.
    fn take(input: &mut Input<'a>) -> Result<Self, Malformed>;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wire<'_> for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_ne_bytes());
            }

            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                let bytes = input.bytes(size_of::<$type>())?;
                bytes.try_into().map(<$type>::from_ne_bytes).map_err(|_| Malformed)
            }
        }
    )*};
}

integers!(u8, u16, u32, u64, i32, i64);

impl<'a> Wire<'a> for &'a [u8] {
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u32).put(out);
        out.extend_from_slice(self);
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        let length = u32::take(input)?;
        input.bytes(length as usize)
    }
}

impl<'a> Wire<'a> for Vec<u8> {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_slice().put(out);
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        <&[u8]>::take(input).map(<[u8]>::to_vec)
    }
}

impl Wire<'_> for () {
    fn put(&self, _out: &mut Vec<u8>) {}

    fn take(_input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl<'a, A: Wire<'a>, B: Wire<'a>> Wire<'a> for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.put(out);
            }
        }
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(None),
            1 => T::take(input).map(Some),
            _ => Err(Malformed),
        }
    }
}

/// A list. Only for items that take at least a byte each, so that the message's length bounds their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<'a, T: Wire<'a>> Wire<'a> for List<T> {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u32).put(out);
        self.0.iter().for_each(|item| item.put(out));
    }

    fn take(input: &mut Input<'a>) -> Result<Self, Malformed> {
        let count = u32::take(input)?;
        // Grows as items turn out to be there; the count alone allocates nothing.
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::take(input)?);
        }
        Ok(List(items))
    }
}

/// Makes a struct a [`Wire`] value, field by field.
macro_rules! wire_struct {
    ($name:ident $(<$life:lifetime>)? { $($field:ident),* $(,)? }) => {
        impl<'w $(, $life)?> $crate::wire::Wire<'w> for $name $(<$life>)? $(where 'w: $life)? {
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::wire::Wire::put(&self.$field, out);)*
            }

            fn take(input: &mut $crate::wire::Input<'w>) -> Result<Self, $crate::wire::Malformed> {
                Ok($name { $($field: $crate::wire::Wire::take(input)?,)* })
            }
        }
    };
}
pub(crate) use wire_struct;

/// Makes an enum without data a [`Wire`] value of one byte.
macro_rules! wire_enum {
    ($name:ident { $($variant:ident = $number:literal),* $(,)? }) => {
        impl $crate::wire::Wire<'_> for $name {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(match self { $($name::$variant => $number,)* });
            }

            fn take(input: &mut $crate::wire::Input<'_>) -> Result<Self, $crate::wire::Malformed> {
                match <u8 as $crate::wire::Wire<'_>>::take(input)? {
                    $($number => Ok($name::$variant),)*
                    _ => Err($crate::wire::Malformed),
                }
            }
        }
    };
}
pub(crate) use wire_enum;
