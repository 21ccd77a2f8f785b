//! The byte string that is signed: every field with its name and length, so that no two documents share one.

/// Fields in a fixed order.
#[derive(Debug)]
pub(super) struct Canonical(Vec<u8>);

impl Canonical {
    /// `domain` keeps a signature from meaning something in another document.
    pub(super) fn new(domain: &str) -> Self {
        Self(format!("{domain}\n").into_bytes())
    }

    pub(super) fn field(mut self, name: &str, value: &str) -> Self {
        self.0.extend_from_slice(format!("{name}={}:", value.len()).as_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
        self
    }

    /// A field that may be absent, which is another thing than empty.
    pub(super) fn optional(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => {
                let mut this = self;
                this.0.extend_from_slice(format!("{name}-\n").as_bytes());
                this
            }
        }
    }

    pub(super) fn list(self, name: &str, values: &[String]) -> Self {
        let count = self.field(name, &values.len().to_string());
        values.iter().fold(count, |all, value| all.field(name, value))
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }
}
