//! Encoding and decoding of messages and attributes. Pure.

/// Several netlink messages in one buffer.
#[derive(Clone, Debug, Default)]
pub struct Message {
    bytes: Vec<u8>,
    /// Where the current message begins.
    start: usize,
    open: bool,
    count: usize,
}

const HEADER: usize = 16;

impl Message {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message; the one before is complete.
    pub fn begin(&mut self, kind: u16, flags: u16, sequence: u32, head: &[u8]) -> &mut Self {
        self.finish();
        self.start = self.bytes.len();
        self.open = true;
        self.count += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(head);
        self.pad();
        self
    }

    /// More flags for the message that was begun last.
    pub fn add_flags(&mut self, flags: u16) -> &mut Self {
        if let Some(bytes) = self.bytes.get_mut(self.start + 6..self.start + 8) {
            let old = u16::from_ne_bytes([bytes[0], bytes[1]]);
            bytes.copy_from_slice(&(old | flags).to_ne_bytes());
        }
        self
    }

    fn finish(&mut self) {
        if self.open {
            let length = (self.bytes.len() - self.start) as u32;
            self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
            self.open = false;
        }
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// One attribute. What does not fit an attribute's 16-bit length is cut: nothing that is
    /// encoded here is longer than a name, an address or a rule.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let value = &value[..value.len().min(usize::from(u16::MAX) - 8)];
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// A string with its terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// A number in host order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A number in network order, as nftables wants it.
    pub fn big(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// An attribute of attributes. One that does not fit is left out whole: with a length that is
    /// too small, the kernel would take the rest of it for something else.
    pub fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        const NESTED: u16 = 0x8000;
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        inside(self);
        match u16::try_from(self.bytes.len() - at) {
            Ok(length) => self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.bytes.truncate(at),
        }
        self
    }

    /// Bytes as they are, inside a nested attribute (a struct before its attributes).
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The finished buffer.
    pub fn bytes(mut self) -> Vec<u8> {
        self.finish();
        self.bytes
    }
}

/// The attributes in a slice.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head: [u8; 4] = self.0.get(..4)?.try_into().ok()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first of a kind.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut all = self;
        all.find_map(|(found, value)| (found == kind).then_some(value))
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// The messages in a datagram.
pub(crate) fn answers(mut bytes: &[u8]) -> Vec<Answer<'_>> {
    let mut out = Vec::new();
    while let Some(head) = bytes.get(..HEADER) {
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
        let length = word(0) as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        out.push(Answer { kind: half(4), flags: half(6), sequence: word(8), body });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let mut message = Message::new();
        message.begin(16, 5, 1, &[0; 16]);
        message.string(3, "eth0").nested(18, |inside| {
            inside.string(1, "veth").number(2, 7);
        });
        message.begin(20, 5, 2, &[1, 2, 3]);
        let bytes = message.bytes();
        let all = answers(&bytes);
        assert_eq!((all.len(), all[0].kind, all[1].sequence), (2, 16, 2));
        let attributes = Attributes(&all[0].body[16..]);
        assert_eq!(attributes.find(3), Some(&b"eth0\0"[..]));
        let inside = Attributes(attributes.find(18).unwrap());
        assert_eq!(inside.find(2), Some(&7_u32.to_ne_bytes()[..]));
    }

    /// CVE-2021-43784: what is inside stays inside, however much it is.
    #[test]
    fn nothing_overflows_into_its_surroundings() {
        for count in [1, 100, 6_552, 6_553, 6_554, 8_000, 70_000] {
            let mut message = Message::new();
            message.begin(16, 0, 1, &[]).nested(18, |inside| {
                for _ in 0..count {
                    inside.number(99, 7);
                }
                inside.attribute(98, &vec![0x63; count]);
            });
            message.string(3, "after");
            let bytes = message.bytes();
            let all = answers(&bytes);
            let outer: Vec<u16> = Attributes(all[0].body).map(|(kind, _)| kind).collect();
            assert!(outer == [18, 3] || outer == [3], "{count}: {outer:?}");
        }
    }

    #[test]
    fn truncated_or_lying_answers_end_the_reading() {
        let mut message = Message::new();
        message.begin(16, 0, 1, &[0; 16]).string(3, "name");
        let bytes = message.bytes();
        for length in 0..bytes.len() {
            for answer in answers(&bytes[..length]) {
                let _ = Attributes(answer.body).count();
            }
        }
        for lie in [0_u16, 1, 3, 200, u16::MAX] {
            let mut attribute = lie.to_ne_bytes().to_vec();
            attribute.extend_from_slice(&[1, 0, 9, 9]);
            assert!(Attributes(&attribute).count() <= 1);
        }
    }
}
