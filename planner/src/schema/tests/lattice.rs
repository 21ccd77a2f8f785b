use super::super::*;

fn shapes() -> Vec<TypeShape> {
    use TypeShape::*;
    let text = |length, padded| Text { length, padded };
    let labels = |names: &[&str]| Enum(names.iter().map(|n| (*n).to_owned()).collect());
    let mut all = vec![
        Boolean,
        Float { bits: 16 },
        Float { bits: 32 },
        Float { bits: 64 },
        Decimal { digits: None },
        text(None, false),
        text(Some(20), false),
        text(Some(50), false),
        text(Some(10), true),
        text(Some(30), true),
        Bytes { length: None, fixed: false },
        Bytes { length: Some(16), fixed: true },
        Bytes { length: Some(8), fixed: false },
        Bits { length: Some(4), fixed: true },
        Bits { length: None, fixed: false },
        Date,
        Uuid,
        Json { binary: true },
        Json { binary: false },
        labels(&["a", "b"]),
        labels(&["a", "x", "b"]),
        labels(&["b", "a"]),
        Array(Box::new(Integer { bits: 32, signed: true })),
        Array(Box::new(Integer { bits: 64, signed: true })),
        Other("public.thing".into()),
        Other("cidr".into()),
        Other("inet".into()),
    ];
    for bits in [8, 16, 32, 64, 128, 256] {
        all.extend([Integer { bits, signed: true }, Integer { bits, signed: false }]);
    }
    all.extend([(8, 2), (10, 2), (8, 4), (19, 0), (5, 0)].map(|digits| Decimal { digits: Some(digits) }));
    for digits in [0, 3, 6, 9] {
        for zoned in [false, true] {
            all.extend([Time { digits, zoned }, Timestamp { digits, zoned }]);
        }
        all.push(Interval { digits, fields: String::new() });
    }
    all
}

/// What makes a lattice of it: the join does not depend on the order, holds both, and is the smallest that does.
#[test]
fn every_pair_has_one_join_that_holds_both() {
    let all = shapes();
    for a in &all {
        assert_eq!(fit(a, a), Fit::Same);
        for b in &all {
            let join = a.join(b);
            assert_eq!(join, b.join(a), "{} and {}", a.name(), b.name());
            let Some(join) = join else { continue };
            for part in [a, b] {
                assert_eq!(part.join(&join).as_ref(), Some(&join), "{} in {}", part.name(), join.name());
            }
            // A float or a decimal holds small integers of either sign without holding the integer that holds both.
            let integers = matches!(join, TypeShape::Integer { .. });
            for c in all.iter().filter(|c| !integers || matches!(c, TypeShape::Integer { .. })) {
                let (Some(above_a), Some(above_b)) = (a.join(c), b.join(c)) else { continue };
                if above_a == *c && above_b == *c {
                    assert_eq!(
                        join.join(c).as_ref(),
                        Some(c),
                        "{} holds {} and {}, but not their join {}",
                        c.name(),
                        a.name(),
                        b.name(),
                        join.name()
                    );
                }
            }
        }
    }
}

#[test]
fn nothing_is_widened_across_kinds() {
    use TypeShape::*;
    let pairs = [
        (Integer { bits: 32, signed: true }, Text { length: None, padded: false }),
        (Integer { bits: 64, signed: true }, Float { bits: 64 }),
        (Boolean, Integer { bits: 8, signed: true }),
        (Timestamp { digits: 6, zoned: false }, Timestamp { digits: 6, zoned: true }),
        (Time { digits: 6, zoned: false }, Timestamp { digits: 6, zoned: false }),
        (Date, Timestamp { digits: 6, zoned: true }),
        (Uuid, Text { length: None, padded: false }),
        (Json { binary: false }, Text { length: None, padded: false }),
        (Decimal { digits: None }, Float { bits: 64 }),
        (Bytes { length: None, fixed: false }, Text { length: None, padded: false }),
    ];
    for (a, b) in pairs {
        assert_eq!(fit(&a, &b), Fit::Incompatible, "{} and {}", a.name(), b.name());
        assert_eq!(fit(&b, &a), Fit::Incompatible, "{} and {}", b.name(), a.name());
    }
}

#[test]
fn a_column_is_widened_to_the_smallest_type_of_both() {
    use TypeShape::*;
    let decimal = |p, s| TypeShape::decimal(p, s);
    let wider = |source: TypeShape, target: TypeShape| match fit(&source, &target) {
        Fit::Wider(join) => join.name(),
        other => format!("{other:?}"),
    };
    assert_eq!(wider(decimal(10, 4), decimal(12, 2)), "decimal(14,4)");
    assert_eq!(wider(Integer { bits: 64, signed: true }, decimal(10, 2)), "decimal(21,2)");
    assert_eq!(wider(Integer { bits: 32, signed: false }, Integer { bits: 32, signed: true }), "bigint");
    assert_eq!(wider(Text { length: None, padded: false }, Text { length: Some(10), padded: false }), "text");
    assert_eq!(wider(Integer { bits: 16, signed: true }, Integer { bits: 32, signed: true }), "Narrower");
    assert_eq!(wider(Enum(vec!["a".into(), "b".into()]), Enum(vec!["b".into()])), "enum(a, b)");
}
