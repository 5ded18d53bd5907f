//! Two or three threads and one page, in every order that loom finds. Longer programs are in
//! `shuttle_tests`.

use std::rc::Rc;

use loom::thread;

use super::model::{Keeper, Model};
use crate::store::btree::map::Filling;
use crate::store::word::MapWord;

/// Every execution with at most `preemptions` preemptions, besides the switches where one waits.
fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

/// A thread for each of `others`, and the keeper's part in this one.
fn beside(
    (page, mut keeper): (Model, Keeper),
    others: &[fn(&Model)],
    keep: impl FnOnce(&Model, &mut Keeper),
) {
    let page = Rc::new(page);
    let other = |body: fn(&Model)| {
        let page = Rc::clone(&page);
        thread::spawn(move || body(&page))
    };
    let threads: Vec<_> = others.iter().map(|body| other(*body)).collect();
    keep(&page, &mut keeper);
    threads.into_iter().for_each(|thread| thread.join().expect("no thread of a model panics"));
    page.check(&keeper);
}

fn evict(page: &Model) {
    page.evict();
}

fn in_memory() -> (Model, Keeper) {
    let (page, keeper) = Model::cold();
    page.load();
    (page, keeper)
}

#[test]
fn two_loaders_and_an_evicter() {
    model(3, || beside(Model::cold(), &[Model::load, evict], |page, _| page.load()));
}

#[test]
fn two_evicters_and_a_writer() {
    model(3, || beside(in_memory(), &[evict, Model::write], |page, _| evict(page)));
}

#[test]
fn the_first_flush_of_a_page_and_a_writer_and_an_evicter() {
    let new = || (Model::new(), Keeper::default());
    model(2, move || beside(new(), &[Model::write, evict], |page, keeper| keeper.flush(page)));
}

#[test]
fn a_flush_and_an_evicter_and_a_loader() {
    model(2, || beside(in_memory(), &[evict, Model::load], |page, keeper| keeper.flush(page)));
}

/// The page may be evicted before what was written of it is installed.
#[test]
fn a_flush_that_leaves_the_node_and_an_evicter_and_a_loader() {
    model(2, || beside(in_memory(), &[evict, Model::load], |page, keeper| keeper.flush_beside(page)));
}

#[test]
fn a_flush_and_an_evicter_and_a_writer() {
    model(2, || beside(in_memory(), &[evict, Model::write], |page, keeper| keeper.flush(page)));
}

#[test]
fn a_move_and_an_evicter_and_a_loader() {
    model(2, || beside(in_memory(), &[evict, Model::load], |page, keeper| keeper.clean(page)));
    model(2, || beside(Model::cold(), &[evict, Model::load], |page, keeper| keeper.clean(page)));
}

#[test]
fn a_move_and_an_evicter_and_a_writer() {
    model(2, || beside(in_memory(), &[evict, Model::write], |page, keeper| keeper.clean(page)));
}

/// A loader that read the mapping long ago: meanwhile the page lives a whole life.
#[test]
fn a_slow_loader() {
    model(3, || {
        beside(Model::cold(), &[Model::load], |page, keeper| {
            page.write();
            keeper.flush(page);
            evict(page);
            page.load();
        });
    });
}

#[test]
fn a_slow_loader_of_a_page_that_is_freed_and_used_again() {
    model(3, || {
        beside(Model::cold(), &[Model::load], |page, keeper| {
            page.load();
            keeper.free(page);
            let (id, _) = page.map.allocate(Some(page.id), &mut Filling::default()).expect("one");
            assert_eq!(id, page.id, "it is the first that is free");
            page.create_again();
            keeper.flush(page);
            evict(page);
        });
    });
}

#[test]
fn what_was_durable_when_a_checkpoint_began_is_exported() {
    model(2, || {
        beside(in_memory(), &[evict, Model::load], |page, keeper| {
            let frames = keeper.begin(page);
            let was = keeper.entry(page);
            keeper.flush_beside(page);
            assert_eq!(keeper.export(page, &frames), vec![was]);
            assert_eq!(keeper.begin(page).len(), 1, "the flush is in the next one");
        });
    });
}

#[test]
fn a_word_that_is_free_has_no_home() {
    model(2, || {
        beside((Model::new(), Keeper::default()), &[], |page, keeper| {
            keeper.free(page);
            assert_eq!(page.entry().word(), MapWord::FREE);
            page.create_again();
        });
    });
}
