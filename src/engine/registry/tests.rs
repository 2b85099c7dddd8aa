use std::path::{Path, PathBuf};

use redb::Database;

use super::*;

/// A state folder with a writer, and the file that its config names.
struct RegistryFixture {
    folder: tempfile::TempDir,
    file: PathBuf,
    writer: Writer,
}

impl RegistryFixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            file: folder.path().join("devices.csv"),
            writer: Writer {
                store: Store::open(folder.path()).unwrap(),
                base: DeviceRegistry::default(),
                table: Arc::default(),
                changed: Box::new(|| ()),
                tell: None,
                follows: false,
                owed: None,
            },
            folder,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes this text over as the file's, with this last step.
    fn take(&mut self, text: &str, last: Result<(), LoadError>) -> Result<(), LoadError> {
        std::fs::write(&self.file, text).unwrap();
        let source = source::load(&self.file, self.folder.path())?;
        self.writer.rebase(Some(source), || last)
    }

    /// Returns what the admin listener says of one device.
    fn say(&mut self, device: &str, state: DeviceState) -> Result<(), ChangeError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let entry = DeviceEntry { state, user: None };
        let changes = DeviceChanges::one(device, entry);
        let reply = Box::new(move |result| sender.send(result).unwrap());
        self.writer.change(vec![(changes, false, reply)]);
        receiver.recv().unwrap()
    }

    fn state(&self, device: &str) -> DeviceState {
        self.writer.table.read(|devices| devices.state(device))
    }

    /// Returns the devices that are active in a node that is started now.
    fn after_a_start(&mut self) -> Vec<(String, DeviceState)> {
        self.writer.store.release();
        let last = source::last(self.folder.path()).unwrap().unwrap();
        let said = Store::open(self.folder.path()).unwrap().load().unwrap();
        let all = last.registry.with(&said).unwrap();
        let all = all.list("", "", 100).into_iter();
        all.map(|(name, entry)| (name.to_owned(), entry.state))
            .collect()
    }

    /// Another process that has the store.
    fn taken(&self) -> Database {
        Database::open(self.path().join("devices.redb")).unwrap()
    }
}

fn refusal() -> LoadError {
    LoadError::Write("a file".to_owned(), std::io::Error::other("the disk"))
}

#[test]
fn a_file_is_taken_over_whole_or_not_at_all() {
    use DeviceState::{Blocked, Managed, Unmanaged};
    let mut fixture = RegistryFixture::new();
    fixture.take("one,managed\ntwo,managed\n", Ok(())).unwrap();
    fixture.say("two", Unmanaged).unwrap();
    fixture.say("three", Managed).unwrap();
    let before = fixture.after_a_start();
    let new = "one,blocked\ntwo,blocked\nthree,blocked\n";
    assert!(fixture.take(new, Err(refusal())).is_err());
    let states =
        |fixture: &RegistryFixture| ["one", "two", "three"].map(|device| fixture.state(device));
    assert_eq!(states(&fixture), [Managed, Unmanaged, Managed]);
    assert_eq!(fixture.after_a_start(), before);
    // The same where the copy cannot get into its place.
    let copy = fixture.path().join("devices-last");
    let old = std::fs::read(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    std::fs::create_dir(&copy).unwrap();
    assert!(fixture.take(new, Ok(())).is_err());
    assert_eq!(states(&fixture), [Managed, Unmanaged, Managed]);
    std::fs::remove_dir(&copy).unwrap();
    std::fs::write(&copy, old).unwrap();
    assert_eq!(fixture.after_a_start(), before);

    fixture.take(new, Ok(())).unwrap();
    assert_eq!(states(&fixture), [Blocked; 3]);
}

#[test]
fn no_file_any_more_is_refused_whole_too() {
    let mut fixture = RegistryFixture::new();
    fixture.take("one,managed\n", Ok(())).unwrap();
    assert!(fixture.writer.rebase(None, || Err(refusal())).is_err());
    assert_eq!(fixture.state("one"), DeviceState::Managed);
    fixture.writer.rebase(None, || Ok(())).unwrap();
    assert_eq!(fixture.state("one"), DeviceState::Unmanaged);
}

/// After a successor that did not come to serve, the store cannot be opened: nothing that it holds
/// counts as never said, and it is tried again.
#[test]
fn a_store_that_cannot_be_taken_back_loses_nothing() {
    use DeviceState::{Blocked, Managed};
    let mut fixture = RegistryFixture::new();
    fixture.take("one,managed\n", Ok(())).unwrap();
    fixture.say("one", Blocked).unwrap();
    fixture.writer.follow(true);
    assert!(matches!(
        fixture.say("two", Managed),
        Err(ChangeError::Succeeded)
    ));
    let other = fixture.taken();
    fixture.writer.follow(false);
    assert!(matches!(
        fixture.say("two", Managed),
        Err(ChangeError::Store(_))
    ));
    assert!(fixture.take("one,managed\ntwo,managed\n", Ok(())).is_err());
    assert!(fixture.writer.rebase(None, || Ok(())).is_err());
    assert_eq!(fixture.state("one"), Blocked);
    drop(other);
    fixture.say("two", Managed).unwrap();
    fixture.take("one,managed\n", Ok(())).unwrap();
    assert_eq!(
        fixture.after_a_start(),
        [("one".to_owned(), Blocked), ("two".to_owned(), Managed)]
    );
}

/// A removal that could not be written back is written with the next change.
#[test]
fn what_the_disk_has_refused_is_owed() {
    use DeviceState::{Blocked, Managed};
    let mut fixture = RegistryFixture::new();
    fixture.take("one,managed\n", Ok(())).unwrap();
    fixture.say("one", Managed).unwrap();
    fixture.writer.store.release();
    let other = fixture.taken();
    let state = DeviceState::Blocked;
    let said = DeviceChanges::one("two", DeviceEntry { state, user: None });
    fixture.writer.owe(said);
    assert!(fixture.say("three", Managed).is_err());
    drop(other);
    fixture.say("three", Managed).unwrap();
    let all = [("one", Managed), ("three", Managed), ("two", Blocked)];
    let all = all.map(|(name, state)| (name.to_owned(), state));
    assert_eq!(fixture.after_a_start(), all);
}
