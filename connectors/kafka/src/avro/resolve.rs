//! Schema resolution: what a reader's schema makes of what a writer's schema wrote. The rules are those of the
//! specification, with two that the registry leaves out because it does not look at logical types: a decimal of another
//! scale and a time of another unit would be read as other values.

use std::collections::HashSet;

use super::parse::{Field, Logical, Named, Node, Primitive, Schema, Shape};
use crate::compatibility::Finding;

/// What `reader` does not understand of what `writer` writes.
pub(crate) fn read(reader: &Schema, writer: &Schema) -> Vec<Finding> {
    let mut resolver = Resolver { reader, writer, seen: HashSet::new() };
    let mut findings = Vec::new();
    resolver.node(&reader.root, &writer.root, "", &mut findings);
    findings
}

struct Resolver<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    /// Pairs of named types that are being compared, or were: a type may hold itself.
    seen: HashSet<(usize, usize)>,
}

impl Resolver<'_> {
    fn node(&mut self, reader: &Node, writer: &Node, path: &str, out: &mut Vec<Finding>) {
        match (reader, writer) {
            // Each value has one of the writer's types, and the reader meets all of them.
            (_, Node::Union(branches)) => {
                for branch in branches {
                    match reader {
                        Node::Union(_) => self.node(reader, branch, path, out),
                        // What the reader takes for itself has its own reasons.
                        _ if branches.len() == 1 => self.node(reader, branch, path, out),
                        _ if self.understands(reader, branch) => {}
                        _ => out.push(Finding::new(
                            path,
                            "TYPE_MISMATCH",
                            format!(
                                "the writer's union holds {}, which the reader's {} does not read",
                                name(self.writer, branch),
                                name(self.reader, reader)
                            ),
                        )),
                    }
                }
            }
            (Node::Union(branches), writer) => self.branch(branches, writer, path, out),
            (Node::Array(a), Node::Array(b)) => self.node(a, b, &format!("{path}[]"), out),
            (Node::Map(a), Node::Map(b)) => self.node(a, b, &format!("{path}{{}}"), out),
            (Node::Named(a), Node::Named(b)) => self.named(*a, *b, path, out),
            (Node::Primitive(a, x), Node::Primitive(b, y)) => {
                if !promotes(*b, *a) {
                    out.push(self.mismatch(reader, writer, path));
                } else if a == b {
                    logical(x.as_ref(), y.as_ref(), path, out);
                }
            }
            _ => out.push(self.mismatch(reader, writer, path)),
        }
    }

    /// Whether nothing stands against it. Pairs that fail must not be remembered as seen.
    fn understands(&mut self, reader: &Node, writer: &Node) -> bool {
        let seen = self.seen.clone();
        let mut findings = Vec::new();
        self.node(reader, writer, "", &mut findings);
        if !findings.is_empty() {
            self.seen = seen;
        }
        findings.is_empty()
    }

    fn branch(&mut self, branches: &[Node], writer: &Node, path: &str, out: &mut Vec<Finding>) {
        if branches.iter().any(|branch| self.understands(branch, writer)) {
            return;
        }
        // A branch of the same kind says more than that there is none.
        let alike: Vec<&Node> =
            branches.iter().filter(|branch| same_kind(self.reader, branch, self.writer, writer)).collect();
        if let [alike] = alike.as_slice() {
            return self.node(alike, writer, path, out);
        }
        out.push(Finding::new(
            path,
            "MISSING_UNION_BRANCH",
            format!("the reader's union holds no type that reads {}", name(self.writer, writer)),
        ));
    }

    fn named(&mut self, reader: usize, writer: usize, path: &str, out: &mut Vec<Finding>) {
        let (a, b) = (&self.reader.named[reader], &self.writer.named[writer]);
        if !self.seen.insert((reader, writer)) {
            return;
        }
        if a.name != b.name && !a.aliases.contains(&b.full) {
            out.push(Finding::new(
                path,
                "NAME_MISMATCH",
                format!("the reader's type is called {:?}, the writer's {:?}, which is no alias of it", a.full, b.full),
            ));
            return;
        }
        match (&a.shape, &b.shape) {
            (Shape::Record(read), Shape::Record(written)) => self.record(a, read, written, path, out),
            (Shape::Enum { symbols: read, default }, Shape::Enum { symbols: written, .. }) => {
                let missing: Vec<_> =
                    written.iter().filter(|symbol| !read.contains(symbol)).map(String::as_str).collect();
                if !missing.is_empty() && default.is_none() {
                    out.push(Finding::new(
                        path,
                        "MISSING_ENUM_SYMBOLS",
                        format!("the reader's enum {:?} has no default and lacks {}", a.full, missing.join(", ")),
                    ));
                }
            }
            (Shape::Fixed { size: m, logical: x }, Shape::Fixed { size: n, logical: y }) => {
                if m != n {
                    let message = format!("the reader's {:?} has {m} bytes, the writer's {n}", a.full);
                    out.push(Finding::new(path, "FIXED_SIZE_MISMATCH", message));
                }
                logical(x.as_ref(), y.as_ref(), path, out);
            }
            _ => {
                let message = format!("the reader has {} {:?}, the writer {}", kind(a), a.full, kind(b));
                out.push(Finding::new(path, "TYPE_MISMATCH", message));
            }
        }
    }

    fn record(&mut self, record: &Named, read: &[Field], written: &[Field], path: &str, out: &mut Vec<Finding>) {
        for field in read {
            let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            let by = |name: &str| written.iter().find(|other| other.name == name);
            match by(&field.name).or_else(|| field.aliases.iter().find_map(|alias| by(alias))) {
                Some(there) => self.node(&field.node, &there.node, &path, out),
                None if field.has_default => {}
                None => out.push(Finding::new(
                    &path,
                    "READER_FIELD_MISSING_DEFAULT_VALUE",
                    format!(
                        "the writer's {:?} has no field {:?}, and the reader's has no default",
                        record.full, field.name
                    ),
                )),
            }
        }
    }

    fn mismatch(&self, reader: &Node, writer: &Node, path: &str) -> Finding {
        let (a, b) = (name(self.reader, reader), name(self.writer, writer));
        Finding::new(path, "TYPE_MISMATCH", format!("the reader's {a} does not read the writer's {b}"))
    }
}

/// A number is read as one with more room; text and bytes are read as each other.
fn promotes(writer: Primitive, reader: Primitive) -> bool {
    use Primitive::*;
    writer == reader
        || matches!(
            (writer, reader),
            (Int, Long | Float | Double) | (Long, Float | Double) | (Float, Double) | (String, Bytes) | (Bytes, String)
        )
}

fn logical(reader: Option<&Logical>, writer: Option<&Logical>, path: &str, out: &mut Vec<Finding>) {
    // A type without one has always been read as its plain values.
    let (Some(a), Some(b)) = (reader, writer) else { return };
    let reads = match (a, b) {
        (Logical::Decimal { precision: p, scale: s }, Logical::Decimal { precision: q, scale: t }) => s == t && p >= q,
        (a, b) => a == b,
    };
    if !reads {
        let message = format!(
            "the reader takes the values for {}, the writer means {}; the registry does not look at this",
            meaning(a),
            meaning(b)
        );
        out.push(Finding::new(path, "LOGICAL_TYPE_MISMATCH", message));
    }
}

fn meaning(logical: &Logical) -> String {
    match logical {
        Logical::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
        Logical::Other(name) => name.clone(),
    }
}

fn same_kind(reader: &Schema, a: &Node, writer: &Schema, b: &Node) -> bool {
    match (a, b) {
        (Node::Named(a), Node::Named(b)) => {
            let (a, b) = (&reader.named[*a], &writer.named[*b]);
            a.name == b.name && kind(a) == kind(b)
        }
        (Node::Array(_), Node::Array(_)) | (Node::Map(_), Node::Map(_)) => true,
        (Node::Primitive(a, _), Node::Primitive(b, _)) => a == b,
        _ => false,
    }
}

fn kind(named: &Named) -> &'static str {
    match named.shape {
        Shape::Record(_) => "a record",
        Shape::Enum { .. } => "an enum",
        Shape::Fixed { .. } => "a fixed",
    }
}

fn name(schema: &Schema, node: &Node) -> String {
    match node {
        Node::Primitive(primitive, _) => primitive.as_str().to_owned(),
        Node::Array(item) => format!("array of {}", name(schema, item)),
        Node::Map(item) => format!("map of {}", name(schema, item)),
        Node::Union(branches) => {
            format!("union of {}", branches.iter().map(|branch| name(schema, branch)).collect::<Vec<_>>().join(", "))
        }
        Node::Named(at) => format!("{} {:?}", kind(&schema.named[*at]), schema.named[*at].full),
    }
}
