//! What a stack counted.

/// Counters of a stack since it was made, and how full it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackStats {
    /// Connections that exist now, in whatever state, without those in TIME-WAIT.
    pub connections: usize,
    /// Finished connections in TIME-WAIT now; they hold no buffers.
    pub time_wait: usize,
    /// Handshakes completed for listeners.
    pub accepted: u64,
    /// Connections opened from here, whether they succeeded or not.
    pub opened: u64,
    /// Handshakes for listeners that were given up after a second without an answer, because there
    /// was no room for another.
    pub handshakes_given_up: u64,
    /// SYNs dropped because their listener's backlog was full.
    pub syns_dropped_backlog: u64,
    /// SYNs dropped because the stack has as many connections as it may, or no memory for more.
    pub syns_dropped_limit: u64,
    /// SYNs dropped because there is no route back to their sender.
    pub syns_dropped_unroutable: u64,
    /// Segments with RST sent: to ports nobody listens on, and for connections aborted here.
    pub resets_sent: u64,
    /// Connections that the peer reset.
    pub resets_received: u64,
    /// Connections that ended because the peer fell silent.
    pub timed_out: u64,
    /// Frames received from the device.
    pub frames_received: u64,
    /// Frames sent for connections.
    pub frames_sent: u64,
    /// Frames that were too short or whose lengths or flags contradict each other.
    pub frames_malformed: u64,
    /// Frames with a wrong IPv4 header or TCP checksum.
    pub bad_checksums: u64,
    /// IPv4 fragments: this stack does not reassemble.
    pub fragments_dropped: u64,
    /// Frames that claimed to come from this host or from an address no host can have.
    pub spoofed_dropped: u64,
    /// Frames for other hosts, and of protocols this stack does not speak.
    pub frames_ignored: u64,
    /// Answers to frames (pings, resets, acknowledgements) dropped because too many frames waited
    /// for the device.
    pub answers_dropped: u64,
}
