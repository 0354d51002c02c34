use proptest::prelude::*;
use razorfs_format::record::{BLOCK, Codec, Fragment, FragmentKind, PackRef};
use razorfs_format::{BatchSeq, Branch, Epoch, Ino, PackId, key::Key};

use super::*;

/// What a test does to one block.
#[derive(Clone, Debug)]
enum Act {
    Write { off: u32, len: u32, byte: u8 },
    Hole { off: u32, len: u32 },
    Seal,
}

fn act() -> impl Strategy<Value = Act> {
    let run = (0..BLOCK - 1, 1u32..9000).prop_map(|(off, len)| (off, len.min(BLOCK - off)));
    let near = (0u32..20_000, 1u32..9000);
    prop_oneof![
        (run.clone(), any::<u8>()).prop_map(|((off, len), byte)| Act::Write { off, len, byte }),
        (near.clone(), any::<u8>()).prop_map(|((off, len), byte)| Act::Write { off, len, byte }),
        any::<u8>().prop_map(|byte| Act::Write {
            off: 0,
            len: BLOCK,
            byte
        }),
        run.prop_map(|(off, len)| Act::Hole { off, len }),
        near.prop_map(|(off, len)| Act::Hole { off, len }),
        Just(Act::Seal),
    ]
}

/// What the pieces show over a block of `under`.
fn shown(block: &Block, under: u8) -> Vec<u8> {
    let mut bytes = vec![if block.below { under } else { 0 }; BLOCK as usize];
    for piece in &block.pieces {
        let range = piece.range();
        let fragment = piece.to_fragment();
        let target = &mut bytes[range.start as usize..range.end as usize];
        match fragment.kind {
            FragmentKind::Inline(data) => target.copy_from_slice(&data),
            _ => target.fill(0),
        }
    }
    bytes
}

/// Redoes what a journal would hold of the batches: operations first, then the live data.
#[derive(Default)]
struct Redo {
    ops: Vec<Fragment>,
    dirty: Vec<Arc<RamPiece>>,
}

impl Redo {
    fn seal(&mut self, replayed: &mut Block) {
        for fragment in self.ops.drain(..) {
            replayed.patch(fragment, BatchSeq(u64::MAX));
        }
        for piece in self.dirty.drain(..) {
            if !piece.is_dead() {
                replayed.patch(
                    Piece::Ram(Arc::clone(&piece)).to_fragment(),
                    BatchSeq(u64::MAX),
                );
                piece.set_journaled();
            }
        }
    }
}

proptest! {
    /// The pieces show what a plain array shows, and at each seal the journal's redo shows it too.
    #[test]
    fn pieces_show_what_was_written_and_redo_shows_the_same(
        acts in proptest::collection::vec(act(), 1..60),
        fresh: bool,
    ) {
        let key = Key::extent(Branch::HEAD, Ino(20), 3);
        let under = if fresh { 0 } else { 0xEE };
        let mut model = vec![under; BLOCK as usize];
        let mut block = Block::new(fresh);
        let mut replayed = Block::new(fresh);
        let mut redo = Redo::default();
        let mut batch = BatchSeq(1);
        for act in acts.into_iter().chain([Act::Seal]) {
            match act {
                Act::Write { off, len, byte } => {
                    let bytes: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
                    model[off as usize..(off + len) as usize].copy_from_slice(&bytes);
                    let (new, _) = block.write(key, batch, off, &bytes);
                    redo.dirty.extend(new);
                }
                Act::Hole { off, len } => {
                    model[off as usize..(off + len) as usize].fill(0);
                    let hole = Fragment { off, len, kind: FragmentKind::Hole };
                    redo.dirty.extend(block.patch(hole.clone(), batch).0);
                    redo.ops.push(hole);
                }
                Act::Seal => {
                    redo.seal(&mut replayed);
                    batch = batch.next();
                    prop_assert!(shown(&replayed, under) == model);
                }
            }
            prop_assert!(shown(&block, under) == model);
        }
    }
}

#[test]
fn a_log_that_is_appended_and_synced_stays_a_few_pieces() {
    let key = Key::extent(Branch::HEAD, Ino(20), 0);
    let mut block = Block::new(true);
    for n in 0..1000u32 {
        let (new, _) = block.write(key, BatchSeq(u64::from(n)), n * 100, &[n as u8; 100]);
        new[0].set_journaled();
    }
    assert!(
        block.pieces.len() <= 2 * MANY,
        "{} pieces",
        block.pieces.len()
    );
    let bytes = shown(&block, 0);
    assert!((0..1000).all(|n| bytes[n * 100..n * 100 + 100] == [n as u8; 100]));
}

/// A reference to a part of a frame, as a copy lays one over its target.
fn reference(n: u64, off: u32, len: u32) -> Fragment {
    let r = PackRef {
        pack: PackId(1),
        pos: 4096 + n * 200_000,
        stored_len: len,
        raw_len: len,
        skip: 0,
        codec: Codec::None,
        birth: Epoch(1),
        origin: None,
        crcs: Box::new([]),
    };
    let kind = FragmentKind::Pack(r);
    Fragment { off, len, kind }
}

#[test]
fn a_place_that_is_copied_to_again_and_again_is_one_piece() {
    let key = Key::extent(Branch::HEAD, Ino(20), 0);
    let mut block = Block::new(false);
    let mut reads = Vec::new();
    for n in 0..1000u32 {
        let batch = BatchSeq(u64::from(n));
        // What a batch has sealed is covered by the next; what it is on its way to is no matter.
        let (new, _) = block.write(key, batch, 5000 + n % 7, &[n as u8; 900]);
        if n % 2 == 0 {
            new[0].set_journaled();
        }
        let seen = block.pieces.clone();
        let (split, freed) = block.patch(reference(n.into(), 4096, 8192), batch.next());
        assert!(split.is_empty() && freed == 900);
        // It may still be placed: nothing comes back with it.
        assert_eq!(block.placed(&new[0], reference(0, 5000, 900)), 0);
        reads.push((n, seen, new));
    }
    assert_eq!(block.pieces.len(), 1);
    assert!(block.below && block.pieces[0].range() == (4096..12_288));
    // Who had looked before sees what was there then, and the journal gets what was sealed.
    for (n, seen, new) in reads {
        let FragmentKind::Inline(bytes) = seen.last().unwrap().to_fragment().kind else {
            panic!("it was written");
        };
        assert!(*bytes == [n as u8; 900] && !new[0].is_dead());
    }
    // What reaches beyond it stays, below and above.
    block.patch(reference(1, 0, 5000), BatchSeq(5000));
    block.patch(reference(2, 12_000, 5000), BatchSeq(5000));
    assert_eq!(block.pieces.len(), 3);
    block.patch(reference(3, 4096, 8192), BatchSeq(5000));
    assert_eq!(block.pieces.len(), 3);
}
