use std::borrow::Cow;

use data_encoding::HEXLOWER;
use key_server_core::{KeyId, Time};

use super::writer::write_text;
use crate::error::Fault;

/// `,"name":`, what stands before every value but an object's first.
macro_rules! field {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use field;

/// Walks over a line from left to right and takes only what belongs there.
pub(super) struct Scanner<'a> {
    line: &'a str,
    byte: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(line: &'a [u8]) -> Result<Self, Fault> {
        match str::from_utf8(line) {
            Ok(line) => Ok(Self { line, byte: 0 }),
            Err(error) => Err(Fault::Malformed { byte: error.valid_up_to(), expected: "UTF-8" }),
        }
    }

    /// The fault of finding something else here.
    pub(super) fn expected(&self, expected: &'static str) -> Fault {
        Fault::Malformed { byte: self.byte, expected }
    }

    fn rest(&self) -> &'a str {
        self.line.get(self.byte..).unwrap_or("")
    }

    /// Takes `text` if it comes next.
    pub(super) fn take_if(&mut self, text: &'static str) -> bool {
        let found = self.rest().as_bytes().starts_with(text.as_bytes());
        if found {
            self.byte += text.len();
        }
        found
    }

    pub(super) fn literal(&mut self, text: &'static str) -> Result<(), Fault> {
        if self.take_if(text) { Ok(()) } else { Err(self.expected(text)) }
    }

    pub(super) fn end(&self) -> Result<(), Fault> {
        if self.rest().is_empty() { Ok(()) } else { Err(self.expected("the end of the line")) }
    }

    /// A whole number in its shortest form.
    pub(super) fn number(&mut self) -> Result<u64, Fault> {
        let rest = self.rest().as_bytes();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = decimal(&rest[..digits]);
        let number = number.ok_or_else(|| self.expected("a whole number"))?;
        self.byte += digits;
        Ok(number)
    }

    pub(super) fn number_u32(&mut self) -> Result<u32, Fault> {
        let start = self.byte;
        u32::try_from(self.number()?)
            .map_err(|_| Fault::Malformed { byte: start, expected: "a number of 32 bits" })
    }

    /// A whole number with its sign when it is negative.
    pub(super) fn signed(&mut self) -> Result<i32, Fault> {
        let negative = self.take_if("-");
        let size = self.number()?;
        let signed = if negative { 0_i64.checked_sub_unsigned(size) } else { size.try_into().ok() };
        let signed = signed.filter(|signed| !negative || *signed < 0);
        signed
            .and_then(|signed| i32::try_from(signed).ok())
            .ok_or_else(|| self.expected("a signed number of 32 bits before this"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Fault> {
        if self.take_if("true") {
            return Ok(true);
        }
        self.literal("false").map(|()| false)
    }

    /// A text in quotes; borrowed unless it has escapes.
    pub(super) fn text(&mut self) -> Result<Cow<'a, str>, Fault> {
        self.literal("\"")?;
        let rest = self.rest();
        let special = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
        match special.map(|at| (at, rest.as_bytes()[at])) {
            Some((length, b'"')) => {
                self.byte += length + 1;
                Ok(Cow::Borrowed(&rest[..length]))
            }
            Some((_, b'\\')) => self.escaped().map(Cow::Owned),
            _ => Err(self.expected("a text that ends with a quote")),
        }
    }

    /// A text with escapes, just after its first quote.
    fn escaped(&mut self) -> Result<String, Fault> {
        let fault = self.expected("a text escaped as JSON, no more than needed");
        let quoted = &self.line[self.byte - 1..];
        let mut texts = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
        let Some(Ok(text)) = texts.next() else { return Err(fault) };
        let length = texts.byte_offset();
        let mut canonical = Vec::with_capacity(length);
        write_text(&text, &mut canonical);
        if quoted.as_bytes().get(..length) != Some(&canonical[..]) {
            return Err(fault);
        }
        self.byte += length - 1;
        Ok(text)
    }

    /// A 64-bit number as decimal digits in quotes.
    pub(super) fn quoted_number(&mut self) -> Result<u64, Fault> {
        self.literal("\"")?;
        let number = self.number()?;
        self.literal("\"")?;
        Ok(number)
    }

    /// `N` bytes as lower-case hexadecimal digits in quotes.
    fn hex<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], Fault> {
        let fault = self.expected(expected);
        let digits = self.text()?;
        let mut bytes = [0; N];
        let fits = digits.len() == N * 2;
        let read = fits.then(|| HEXLOWER.decode_mut(digits.as_bytes(), &mut bytes));
        if matches!(read, Some(Ok(_))) { Ok(bytes) } else { Err(fault) }
    }

    pub(super) fn hash(&mut self) -> Result<[u8; 32], Fault> {
        self.hex("64 hexadecimal digits")
    }

    pub(super) fn seed(&mut self) -> Result<u64, Fault> {
        self.hex("16 hexadecimal digits").map(u64::from_be_bytes)
    }

    pub(super) fn key_id(&mut self) -> Result<KeyId, Fault> {
        let fault = self.expected("a key id");
        self.text()?.parse().map_err(|_| fault)
    }

    pub(super) fn field_number(&mut self, field: &'static str) -> Result<u64, Fault> {
        self.literal(field)?;
        self.number()
    }

    pub(super) fn field_u32(&mut self, field: &'static str) -> Result<u32, Fault> {
        self.literal(field)?;
        self.number_u32()
    }

    pub(super) fn field_time(&mut self, field: &'static str) -> Result<Time, Fault> {
        self.field_number(field).map(Time::from_ms)
    }

    pub(super) fn field_time_if(&mut self, field: &'static str) -> Result<Option<Time>, Fault> {
        if !self.take_if(field) {
            return Ok(None);
        }
        self.number().map(|ms| Some(Time::from_ms(ms)))
    }

    pub(super) fn field_flag(&mut self, field: &'static str) -> Result<bool, Fault> {
        self.literal(field)?;
        self.flag()
    }

    pub(super) fn field_key_id(&mut self, field: &'static str) -> Result<KeyId, Fault> {
        self.literal(field)?;
        self.key_id()
    }

    /// Items in brackets with commas between them.
    pub(super) fn list<T>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        self.literal("[")?;
        let mut items = Vec::new();
        if self.take_if("]") {
            return Ok(items);
        }
        loop {
            items.push(each(self)?);
            if self.take_if("]") {
                return Ok(items);
            }
            self.literal(",")?;
        }
    }
}

/// The value of `digits` in their shortest form; none when it has over 64 bits.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}
