//! The table of connections: slots with generations, found by handle or by 4-tuple.

use std::collections::HashMap;

use super::connection::{Connection, Owner};
use super::flow::{Flow, Secret};

/// Names a connection for as long as it exists; a later connection in the same slot has another
/// generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Default)]
struct ConnectionSlot {
    generation: u32,
    connection: Option<Connection>,
}

pub(super) struct Connections {
    slots: Vec<ConnectionSlot>,
    free: Vec<u32>,
    by_flow: HashMap<Flow, ConnectionId, Secret>,
    capacity: usize,
}

impl Connections {
    pub(super) fn new(secret: Secret, capacity: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_flow: HashMap::with_hasher(secret), capacity }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Adds a connection, unless the table is full.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<ConnectionId> {
        if self.is_full() {
            return None;
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(ConnectionSlot::default());
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        let id = ConnectionId { index, generation: slot.generation };
        self.by_flow.insert(connection.flow, id);
        slot.connection = Some(connection);
        Some(id)
    }

    pub(super) fn find(&self, flow: &Flow) -> Option<ConnectionId> {
        self.by_flow.get(flow).copied()
    }

    pub(super) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.connection.as_ref() } else { None }
    }

    /// Whether `id` exists and is in its handshake for a listener.
    pub(super) fn is_handshake(&self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(|connection| matches!(connection.owner, Owner::Handshake { .. }))
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.connection.as_mut() } else { None }
    }

    /// The connection in slot `index`, if there is one.
    pub(super) fn at(&self, index: u32) -> Option<ConnectionId> {
        let slot = self.slots.get(index as usize)?;
        slot.connection.as_ref().map(|_| ConnectionId { index, generation: slot.generation })
    }

    /// Every connection.
    pub(super) fn ids(&self) -> impl Iterator<Item = ConnectionId> {
        (0u32..).take(self.slots.len()).filter_map(|index| self.at(index))
    }

    /// Frees the 4-tuple of `id` for another connection, while the handle stays valid.
    pub(super) fn unlink(&mut self, id: ConnectionId) {
        if let Some(flow) = self.get(id).map(|connection| connection.flow)
            && self.by_flow.get(&flow) == Some(&id)
        {
            self.by_flow.remove(&flow);
        }
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.unlink(id);
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let connection = slot.connection.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(connection)
    }
}
