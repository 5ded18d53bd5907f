//! Two packet devices joined by a pair of bounded queues in memory: a wire for tests and
//! simulation.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{DeviceInfo, DeviceStats, PacketDevice};
use crate::error::Result;
use crate::rt::poller::Park;

/// One direction of the wire.
#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Vec<u8>>,
    /// Emptied buffers, kept for reuse.
    spare: Vec<Vec<u8>>,
}

/// One end of a wire in memory. Both ends belong to one core.
#[derive(Debug)]
pub struct MemoryDevice {
    info: DeviceInfo,
    incoming: Rc<RefCell<Lane>>,
    outgoing: Rc<RefCell<Lane>>,
    capacity: usize,
    stats: DeviceStats,
}

impl MemoryDevice {
    /// Both ends of a wire with the given Ethernet addresses and MTU (in bytes, without the
    /// Ethernet header), on which at most `capacity` frames are under way in each direction. At the
    /// end of a full direction, `transmit` returns false.
    pub fn pair(macs: [[u8; 6]; 2], mtu: usize, capacity: usize) -> (Self, Self) {
        let lanes = [Rc::default(), Rc::default()];
        let end = |mac, incoming: &Rc<_>, outgoing: &Rc<_>| Self {
            info: DeviceInfo {
                name: "mem:".to_owned(),
                mac,
                mtu,
                checksum_offload_tx: false,
                checksum_offload_rx: false,
            },
            incoming: Rc::clone(incoming),
            outgoing: Rc::clone(outgoing),
            capacity,
            stats: DeviceStats::default(),
        };
        (end(macs[0], &lanes[0], &lanes[1]), end(macs[1], &lanes[1], &lanes[0]))
    }
}

impl PacketDevice for MemoryDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize> {
        let mut received = 0;
        while received < budget {
            // The lane is not borrowed while the sink runs.
            let Some(mut frame) = self.incoming.borrow_mut().frames.pop_front() else { break };
            received += 1;
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.len() as u64;
            sink(&mut frame);
            self.incoming.borrow_mut().spare.push(frame);
        }
        Ok(received)
    }

    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        let mut lane = self.outgoing.borrow_mut();
        if lane.frames.len() >= self.capacity {
            return false;
        }
        let mut frame = lane.spare.pop().unwrap_or_default();
        drop(lane);
        frame.clear();
        frame.resize(len, 0);
        fill(&mut frame);
        self.stats.tx_frames += 1;
        self.stats.tx_bytes += len as u64;
        self.outgoing.borrow_mut().frames.push_back(frame);
        true
    }

    fn flush(&mut self) {}

    fn park(&mut self) -> Park {
        if self.incoming.borrow().frames.is_empty() { Park::Idle } else { Park::Spin }
    }

    fn stats(&self) -> DeviceStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(capacity: usize) -> (MemoryDevice, MemoryDevice) {
        MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, capacity)
    }

    #[test]
    fn frames_arrive_in_order_at_the_other_end_only() {
        let (mut a, mut b) = pair(8);
        for byte in 0..3 {
            assert!(a.transmit(20, &mut |frame| frame.fill(byte)));
        }
        assert_eq!((a.park(), b.park()), (Park::Idle, Park::Spin));
        let mut seen = Vec::new();
        assert_eq!(b.receive(2, &mut |frame| seen.push(frame.to_vec())).expect("memory"), 2);
        assert_eq!(b.receive(2, &mut |frame| seen.push(frame.to_vec())).expect("memory"), 1);
        assert_eq!(seen, [vec![0; 20], vec![1; 20], vec![2; 20]]);
        assert_eq!(a.receive(9, &mut |_| panic!("nothing was sent this way")).expect("memory"), 0);
        assert_eq!((a.stats().tx_bytes, b.stats().rx_bytes), (60, 60));
    }

    #[test]
    fn a_full_wire_takes_nothing_and_does_not_ask_for_it() {
        let (mut a, mut b) = pair(1);
        assert!(a.transmit(20, &mut |_| {}));
        assert!(!a.transmit(20, &mut |_| panic!("the frame has no place")));
        b.receive(1, &mut |_| {}).expect("memory");
        assert!(a.transmit(20, &mut |_| {}));
    }
}
