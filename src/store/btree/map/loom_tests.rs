//! Frames between cores, under loom. Two free ids are worth a filling there.

use std::collections::HashSet;
use std::sync::Arc;

use super::frames::{Frame, FrameStack};

/// One core gives ids back while the one that fills the frame leaves it: the frame is on the stack
/// afterwards, once.
#[test]
fn a_frame_with_free_ids_is_on_the_stack_or_filled() {
    loom::model(|| {
        let shared = Arc::new((Frame::full(), FrameStack::default()));
        let (frame, stack) = &*shared;
        let other = Arc::clone(&shared);
        let giver = loom::thread::spawn(move || {
            let (frame, stack) = &*other;
            for at in [3, 7] {
                frame.give(at);
                if frame.claim() {
                    stack.push(5, frame);
                }
            }
        });
        if frame.leave() {
            stack.push(5, frame);
        }
        giver.join().expect("no panic");
        assert_eq!(stack.pop(|_| frame), Some(5), "nobody would ever fill it again");
        assert_eq!(stack.pop(|_| frame), None, "two cores would fill it");
    });
}

/// A frame that leaves the stack and comes back, while another core is about to take it off.
#[test]
fn a_frame_comes_off_the_stack_once() {
    loom::model(|| {
        let shared = Arc::new(([Frame::new(), Frame::new()], FrameStack::default()));
        let (frames, stack) = &*shared;
        stack.push(0, &frames[0]);
        stack.push(1, &frames[1]);
        let other = Arc::clone(&shared);
        let thread = loom::thread::spawn(move || {
            let (frames, stack) = &*other;
            let find = |index: u32| &frames[index as usize];
            let taken = [stack.pop(find), stack.pop(find)];
            if let Some(index) = taken[0] {
                stack.push(index, find(index));
            }
            taken[1]
        });
        let find = |index: u32| &frames[index as usize];
        let mine = stack.pop(find);
        let theirs = thread.join().expect("no panic");
        let left = std::iter::from_fn(|| stack.pop(find));
        let all: Vec<_> = mine.into_iter().chain(theirs).chain(left).collect();
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 2, "{all:?}");
    });
}
