//! Reads of a protobuf message the few fields that are counted.

use crate::spec::Answer;

/// One decision, as far as it is counted.
#[derive(Default, Clone, Copy, PartialEq, Debug)]
pub struct Decision {
    pub code: u64,
    /// It says that it is none.
    pub failed: bool,
    pub degraded: bool,
    pub cached: bool,
}

/// Calls `each` with every decision in `message`, in order; None when it is not a protobuf message.
pub fn read(message: &[u8], answer: &Answer, mut each: impl FnMut(Decision)) -> Option<()> {
    if answer.item_field == 0 {
        each(read_decision(message, answer)?);
        return Some(());
    }
    let mut rest = message;
    while !rest.is_empty() {
        let (number, value) = read_field(&mut rest)?;
        if let (true, Value::Bytes(item)) = (number == answer.item_field, value) {
            each(read_decision(item, answer)?);
        }
    }
    Some(())
}

fn read_decision(mut rest: &[u8], answer: &Answer) -> Option<Decision> {
    let mut decision = Decision::default();
    while !rest.is_empty() {
        let (number, value) = read_field(&mut rest)?;
        let is_set = match value {
            Value::Varint(n) => {
                if number == answer.code_field {
                    decision.code = n;
                }
                n != 0
            }
            Value::Bytes(bytes) => !bytes.is_empty(),
        };
        decision.failed |= number == answer.error_field && is_set;
        decision.degraded |= number == answer.degraded_field && is_set;
        decision.cached |= number == answer.cached_field && is_set;
    }
    Some(decision)
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

fn read_field<'a>(rest: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = read_varint(rest)?;
    let value = match tag & 7 {
        0 => Value::Varint(read_varint(rest)?),
        1 => Value::Bytes(take(rest, 8)?),
        2 => {
            let length = usize::try_from(read_varint(rest)?).ok()?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Bytes(take(rest, 4)?),
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    if length > rest.len() {
        return None;
    }
    let (head, tail) = rest.split_at(length);
    *rest = tail;
    Some(head)
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(item_field: u64) -> Answer {
        Answer { item_field, code_field: 1, ok_codes: vec![1], over_codes: vec![2], error_field: 5, degraded_field: 10, cached_field: 11 }
    }

    fn read_all(message: &[u8], item_field: u64) -> Option<Vec<Decision>> {
        let mut seen = Vec::new();
        read(message, &answer(item_field), |one| seen.push(one))?;
        Some(seen)
    }

    #[test]
    fn a_single_answer_is_one_decision() {
        let message = [0x08, 2, 0x1a, 1, b'p', 0x58, 1];
        assert_eq!(read_all(&message, 0), Some(vec![Decision { code: 2, cached: true, ..Decision::default() }]));
    }

    #[test]
    fn items_are_read_in_their_order_and_an_absent_code_is_zero() {
        let message = [0x0a, 2, 0x08, 1, 0x0a, 2, 0x50, 1, 0x0a, 0];
        let codes: Vec<_> = read_all(&message, 1).unwrap().iter().map(|one| (one.code, one.degraded)).collect();
        assert_eq!(codes, [(1, false), (0, true), (0, false)]);
    }

    #[test]
    fn a_decision_with_an_error_is_none() {
        assert!(read_all(&[0x0a, 3, 0x2a, 1, b'!'], 1).unwrap()[0].failed);
    }

    #[test]
    fn a_cut_message_is_refused() {
        assert_eq!(read_all(&[0x0a, 9, 0x08], 1), None);
        assert_eq!(read_all(&[0x08, 0x80], 0), None);
    }
}
