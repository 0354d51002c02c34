//! An image as a tar compressed with zstd: `tar --zstd -xf` makes a volume of it.

use std::io::Read;

use razorfs_disk::sim::{Image, SimDisk};
use razorfs_disk::{Dir, Name};

/// The same image gives the same bytes: no times, no owners.
pub fn pack(image: &Image) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in Dir::ALL.into_iter().filter(|d| *d != Dir::Root) {
        let mut header = header(0, 0o755);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, format!("{}/", dir.path()), &[][..])
            .unwrap();
    }
    for (name, len) in image.files() {
        let bytes = image.bytes(name).unwrap();
        let path = format!("{}/{}", name.dir.path(), name.leaf);
        tar.append_data(
            &mut header(len, 0o644),
            path.trim_start_matches('/'),
            &bytes[..],
        )
        .unwrap();
    }
    zstd::bulk::compress(&tar.into_inner().unwrap(), 19).unwrap()
}

fn header(len: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(len);
    header.set_mode(mode);
    header
}

pub fn unpack(bytes: &[u8]) -> Image {
    let mut image = Image::default();
    let mut tar = tar::Archive::new(zstd::Decoder::new(bytes).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let (dir, leaf) = path.rsplit_once('/').unwrap_or(("", &path));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let name = Name::new(Dir::from_path(dir).unwrap(), leaf);
        image.write(&name, 0, &bytes);
    }
    // A disk knows of directories what files do not tell.
    let disk = SimDisk::new();
    image.store(&disk).unwrap();
    Image::load(&disk).unwrap()
}
