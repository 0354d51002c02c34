use std::io::IoSlice;
use std::sync::Arc;

use razorfs_disk::sim::{SimDisk, SimEnv, SimRng};
use razorfs_disk::{Dir, Disk, Name, OpenHow};

use crate::{
    Compression, CreateOptions, Geometry, Ino, NewNode, Options, ScrubState, Step, Volume,
};

fn options() -> Options {
    Options {
        geometry: Geometry::tiny(),
        compression: Some(Compression::None),
        threads: false,
        ..Options::default()
    }
}

fn open(disk: &SimDisk, env: &SimEnv) -> Volume {
    let (disk, env) = (Arc::new(disk.clone()), Arc::new(env.clone()));
    Volume::open_on(disk, env, options()).unwrap()
}

/// A volume with some files of 100,000 bytes, all of them in packs.
fn volume(disk: &SimDisk, env: &SimEnv, parity: bool) -> Volume {
    let create = CreateOptions {
        parity,
        ..CreateOptions::from(&options())
    };
    Volume::create_on(Arc::new(disk.clone()), Arc::new(env.clone()), &create).unwrap();
    let volume = open(disk, env);
    for n in 0..20u64 {
        let node = NewNode::file(0o644);
        let node = volume.create_node(Ino::ROOT, n.to_string().as_bytes(), &node);
        let mut bytes = vec![0; 100_000];
        SimRng::new(n).fill(&mut bytes);
        volume.write(node.unwrap().ino, 0, &bytes).unwrap();
    }
    volume.checkpoint().unwrap();
    while volume.step(Step::Parity).unwrap() {}
    volume
}

fn finish(volume: &Volume) {
    for _ in 0..10_000 {
        if !volume.step(Step::Scrub).unwrap() {
            return;
        }
    }
    panic!("no end: {:?}", volume.scrub_status());
}

fn damage(disk: &SimDisk, name: &Name, at: u64) {
    let file = disk.open(name, OpenHow::ReadWrite).unwrap();
    file.write_at(&[IoSlice::new(&[0xEE; 100])], at).unwrap();
}

fn first(disk: &SimDisk, dir: Dir, ending: &str) -> Name {
    let mut files = disk.list(dir).unwrap();
    files.retain(|name| name.leaf.ends_with(ending));
    files.sort();
    files.remove(0)
}

#[test]
fn a_sound_volume_is_read_to_its_end_and_nothing_is_found() {
    for parity in [false, true] {
        let (disk, env) = (SimDisk::new(), SimEnv::new(1));
        let volume = volume(&disk, &env, parity);
        assert_eq!(volume.scrub_status().state, ScrubState::Idle);
        assert!(!volume.step(Step::Scrub).unwrap());
        volume.scrub_start(0).unwrap();
        assert_eq!(volume.scrub_status().state, ScrubState::Running);
        finish(&volume);
        let status = volume.scrub_status();
        assert_eq!(status.state, ScrubState::Idle);
        assert_eq!((status.healed, status.damaged), (0, 0), "{status:?}");
        assert!(
            status.done > 2_000_000 && status.done == status.total,
            "{status:?}"
        );
        let last = status.last.unwrap();
        assert_eq!((last.healed, last.damaged), (0, 0));
        drop(volume);
        let again = open(&disk, &env).scrub_status();
        assert_eq!(again.last, Some(last));
    }
}

#[test]
fn damage_without_parity_is_told_with_the_file_that_it_hits() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let volume = volume(&disk, &env, false);
    damage(&disk, &first(&disk, Dir::Pack, ".rp"), 4096 + 1000);
    volume.scrub_start(0).unwrap();
    finish(&volume);
    let status = volume.scrub_status();
    assert_eq!(status.damaged, 1, "{status:?}");
    let found = &status.findings[0];
    assert_eq!(found.number, 605);
    assert!(found.object.starts_with("inode "), "{found:?}");
}

#[test]
fn what_cannot_be_written_back_is_told_and_does_not_hold_up_the_rest() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let volume = volume(&disk, &env, true);
    let pack = first(&disk, Dir::Pack, ".rp");
    let len = disk.open(&pack, OpenHow::Read).unwrap().len().unwrap();
    let damaged = [5000, len - 5000];
    for at in damaged {
        damage(&disk, &pack, at);
    }
    volume.scrub_start(0).unwrap();
    disk.fail_write_at(disk.counts().writes, 0);
    finish(&volume);
    let status = volume.scrub_status();
    assert_eq!((status.damaged, status.healed), (1, 1), "{status:?}");
    let found = &status.findings[0];
    assert_eq!(found.number, 805);
    assert!(found.detail.contains("cannot be written back"), "{found:?}");
    // The next one finds a disk that takes it.
    volume.scrub_start(0).unwrap();
    finish(&volume);
    let status = volume.scrub_status();
    assert_eq!((status.damaged, status.healed), (0, 1), "{status:?}");
}

#[test]
fn a_segment_without_parity_is_told() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let volume = volume(&disk, &env, false);
    damage(&disk, &first(&disk, Dir::Meta, ".rs"), 200);
    volume.scrub_start(0).unwrap();
    finish(&volume);
    let status = volume.scrub_status();
    assert_eq!(
        (status.damaged, status.findings[0].number),
        (1, 402),
        "{status:?}"
    );
}

#[test]
fn it_goes_on_where_it_was_after_a_crash_and_after_a_pause() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let made = volume(&disk, &env, true);
    made.scrub_start(0).unwrap();
    for _ in 0..5 {
        made.step(Step::Scrub).unwrap();
    }
    assert!(made.scrub_pause().unwrap());
    let paused = made.scrub_status();
    assert!(paused.done > 0 && paused.state == ScrubState::Paused);
    assert!(!made.step(Step::Scrub).unwrap());
    drop(made);
    let again = open(&disk, &env);
    let status = again.scrub_status();
    assert_eq!(
        (&status.position, status.done, status.state),
        (&paused.position, paused.done, ScrubState::Paused)
    );
    again.scrub_resume(None).unwrap();
    // From the last segment to the first pack, and on.
    again.step(Step::Scrub).unwrap();
    again.step(Step::Scrub).unwrap();
    again.close().unwrap();
    let last = open(&disk, &env);
    let status = last.scrub_status();
    assert!(status.state == ScrubState::Running && status.done > paused.done);
    finish(&last);
    assert!(last.scrub_status().last.is_some());
    assert!(last.scrub_resume(None).is_err());
    assert!(!last.scrub_pause().unwrap());
}

#[test]
fn a_damaged_record_means_a_new_beginning() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let made = volume(&disk, &env, true);
    made.scrub_start(0).unwrap();
    finish(&made);
    drop(made);
    damage(&disk, &Name::new(Dir::Root, "SCRUB"), 20);
    let again = open(&disk, &env);
    assert_eq!(again.scrub_status().last, None);
    again.scrub_start(0).unwrap();
    finish(&again);
    assert!(again.scrub_status().last.is_some());
}

#[test]
fn it_keeps_to_its_rate() {
    let (disk, env) = (SimDisk::new(), SimEnv::new(1));
    let volume = volume(&disk, &env, true);
    let start = razorfs_disk::Env::monotonic(&env);
    volume.scrub_start(100_000).unwrap();
    let mut steps = 0;
    while volume.step(Step::Scrub).unwrap() {
        env.advance(50_000_000);
        steps += 1;
        assert!(steps < 10_000);
    }
    let seconds = (razorfs_disk::Env::monotonic(&env) - start) / 1_000_000_000;
    let done = volume.scrub_status().done;
    // The last object is not waited for.
    let least = (done - 300_000) / 100_000;
    assert!(
        seconds >= least && seconds < least * 2,
        "{done} in {seconds} s"
    );
}
