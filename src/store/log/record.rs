//! Records: one transaction each, as a list of operations (disk format, section 6).

use crate::store::codec::{Reader, to_u16, to_u32};
use crate::store::object::ObjectRef;
use crate::store::options::{MAX_KEY_BYTES, MAX_TREE_NAME_BYTES};

const PUT: u8 = 1;
const DELETE: u8 = 2;
const CREATE_TREE: u8 = 3;
const CLEAR_TREE: u8 = 4;
const PUT_EXTERNAL: u8 = 5;
const SPILLED: u8 = 6;

/// One operation of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Operation<'a> {
    Put {
        tree: u32,
        key: &'a [u8],
        value: &'a [u8],
    },
    PutExternal {
        tree: u32,
        key: &'a [u8],
        reference: ObjectRef,
    },
    Delete {
        tree: u32,
        key: &'a [u8],
    },
    CreateTree {
        tree: u32,
        name: &'a str,
    },
    ClearTree {
        tree: u32,
    },
    /// A whole record that lies elsewhere.
    Spilled {
        reference: ObjectRef,
    },
}

/// The length field before the operations of a record.
pub(in crate::store) const RECORD_HEADER_BYTES: usize = 4;

impl<'a> Operation<'a> {
    pub(in crate::store) fn encode(&self, out: &mut Vec<u8>) {
        let mut head = |kind: u8, tree: u32| {
            out.push(kind);
            out.extend_from_slice(&tree.to_le_bytes());
        };
        match self {
            Self::Put { tree, key, value } => {
                head(PUT, *tree);
                out.extend_from_slice(&to_u16(key.len()).to_le_bytes());
                out.extend_from_slice(&to_u32(value.len()).to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(value);
            }
            Self::PutExternal { tree, key, reference } => {
                head(PUT_EXTERNAL, *tree);
                out.extend_from_slice(&to_u16(key.len()).to_le_bytes());
                reference.encode(out);
                out.extend_from_slice(key);
            }
            Self::Delete { tree, key } => {
                head(DELETE, *tree);
                out.extend_from_slice(&to_u16(key.len()).to_le_bytes());
                out.extend_from_slice(key);
            }
            Self::CreateTree { tree, name } => {
                head(CREATE_TREE, *tree);
                out.extend_from_slice(&to_u16(name.len()).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
            }
            Self::ClearTree { tree } => head(CLEAR_TREE, *tree),
            Self::Spilled { reference } => {
                out.push(SPILLED);
                reference.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let kind = reader.u8()?;
        if kind == SPILLED {
            return Some(Self::Spilled { reference: ObjectRef::decode(reader)? });
        }
        let tree = reader.u32()?;
        Some(match kind {
            PUT => {
                let (key_len, value_len) = (reader.u16()?, reader.u32()?);
                let key = decode_key(reader, key_len)?;
                Self::Put { tree, key, value: reader.bytes(value_len as usize)? }
            }
            PUT_EXTERNAL => {
                let key_len = reader.u16()?;
                let reference = ObjectRef::decode(reader).filter(ObjectRef::is_value)?;
                Self::PutExternal { tree, key: decode_key(reader, key_len)?, reference }
            }
            DELETE => {
                let key_len = reader.u16()?;
                Self::Delete { tree, key: decode_key(reader, key_len)? }
            }
            CREATE_TREE => {
                let len = Some(usize::from(reader.u16()?)).filter(|&len| len <= MAX_TREE_NAME_BYTES)?;
                let name = std::str::from_utf8(reader.bytes(len)?).ok()?;
                Self::CreateTree { tree, name }
            }
            CLEAR_TREE => Self::ClearTree { tree },
            _ => return None,
        })
    }
}

fn decode_key<'a>(reader: &mut Reader<'a>, len: u16) -> Option<&'a [u8]> {
    let len = usize::from(len);
    if len > MAX_KEY_BYTES { None } else { reader.bytes(len) }
}

/// Splits the payload of a batch into records, each a list of operations. `None` if it does not
/// parse.
pub(in crate::store) fn parse_payload(payload: &[u8]) -> Option<Vec<Vec<Operation<'_>>>> {
    let mut reader = Reader::new(payload);
    let mut records = Vec::new();
    while !reader.is_empty() {
        let len = reader.u32()?;
        let mut body = Reader::new(reader.bytes(len as usize)?);
        let mut operations = Vec::new();
        while !body.is_empty() {
            operations.push(Operation::decode(&mut body)?);
        }
        records.push(operations);
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_beyond_the_limits_are_refused() {
        let reference = ObjectRef { address: 1 << 40, len: 7777, flags: 0, checksum: 99 };
        let (key, name) = (vec![7; MAX_KEY_BYTES + 1], "n".repeat(MAX_TREE_NAME_BYTES + 1));
        let operations = [
            Operation::CreateTree { tree: 7, name: &name },
            Operation::Put { tree: 7, key: &key, value: b"v" },
            Operation::PutExternal { tree: 7, key: &key, reference },
            Operation::PutExternal { tree: 7, key: b"big", reference: ObjectRef { len: 9, ..reference } },
            Operation::PutExternal { tree: 7, key: b"big", reference: ObjectRef { flags: 4, ..reference } },
            Operation::Delete { tree: 7, key: &key },
        ];
        for operation in operations {
            let mut payload = vec![0; RECORD_HEADER_BYTES];
            operation.encode(&mut payload);
            let len = to_u32(payload.len() - RECORD_HEADER_BYTES);
            payload[..RECORD_HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
            assert_eq!(parse_payload(&payload), None, "{operation:?}");
        }
    }

    #[test]
    fn every_operation_reads_back_and_no_prefix_of_it_does() {
        let reference = ObjectRef { address: 1 << 40, len: 7777, flags: 1, checksum: 99 };
        let operations = [
            Operation::CreateTree { tree: 7, name: "käse" },
            Operation::Put { tree: 7, key: b"", value: b"v" },
            Operation::PutExternal { tree: 7, key: b"big", reference },
            Operation::Delete { tree: 7, key: b"gone" },
            Operation::ClearTree { tree: 7 },
            Operation::Spilled { reference },
        ];
        for operation in operations {
            let mut body = Vec::new();
            operation.encode(&mut body);
            let payload = |body: &[u8]| {
                let mut payload = to_u32(body.len()).to_le_bytes().to_vec();
                payload.extend_from_slice(body);
                payload
            };
            assert_eq!(parse_payload(&payload(&body)), Some(vec![vec![operation]]));
            for cut in 1..body.len() {
                assert_eq!(parse_payload(&payload(&body[..cut])), None, "{operation:?} cut to {cut}");
            }
        }
    }
}
