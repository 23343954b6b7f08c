//! A log file that is followed by another when it is full. What it is called when it is not the newest any more: its path,
//! with `.1` for the last before it, `.2` for the one before that, and so on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pipebusd::service::open_log;

/// A log file. Each write is an entry, which is not divided between two files.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    bytes_max: u64,
    files_max: u32,
    current: Mutex<Option<Current>>,
}

/// The newest of the files, open.
#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Adds to the file that is there, or makes it. Of `files_max` files, none has more than `bytes_max` bytes, but for one
    /// whose only entry is larger.
    pub(crate) fn open(path: &Path, bytes_max: u64, files_max: u32) -> io::Result<LogFile> {
        let current = Mutex::new(Some(Current::open(path)?));
        Ok(LogFile { path: path.to_owned(), bytes_max, files_max, current })
    }

    /// Takes the newest out of the way of the next, and the oldest away, if there are too many.
    fn rotate(&self) -> io::Result<()> {
        // A number that is free: where somebody has a file open and the system does not let it be renamed, this comes to be
        // tried with every entry, and is not to push out an older file each time.
        let free = (1..self.files_max).find(|number| self.numbered(*number).symlink_metadata().is_err());
        let last = free.unwrap_or(self.files_max - 1);
        if last == 0 {
            return fs::remove_file(&self.path);
        }
        (1..=last).rev().try_for_each(|number| fs::rename(self.numbered(number - 1), self.numbered(number)))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        if number == 0 {
            return self.path.clone();
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

impl Current {
    fn open(path: &Path) -> io::Result<Current> {
        let file = open_log(path)?;
        let bytes = file.metadata()?.len();
        Ok(Current { file, bytes })
    }
}

impl Write for &LogFile {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = entry.len() as u64;
        if current.as_ref().is_some_and(|current| current.bytes > 0 && current.bytes + bytes > self.bytes_max) {
            // Closed first, or some systems would not rename it.
            *current = None;
            // Rather too large a file than an entry lost.
            let _ = self.rotate();
        }
        // Not there after an error, either: the disk may have room again, or be there again.
        let mut open = match current.take() {
            Some(open) => open,
            None => Current::open(&self.path)?,
        };
        open.file.write_all(entry)?;
        open.bytes += bytes;
        *current = Some(open);
        Ok(entry.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(directory: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        let text = |entry: fs::DirEntry| {
            (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap_or_default())
        };
        let mut texts: Vec<(String, String)> = entries.map(text).collect();
        texts.sort();
        texts
    }

    #[track_caller]
    fn check(directory: &Path, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> =
            expected.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        assert_eq!(texts(directory), expected);
    }

    fn write(file: &LogFile, entries: &[&str]) {
        for entry in entries {
            let mut file = file;
            file.write_all(entry.as_bytes()).unwrap();
        }
    }

    #[test]
    fn a_full_file_is_followed_by_another_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = LogFile::open(&path, 10, 3).unwrap();
        write(&file, &["1234", "567890"]);
        check(directory.path(), &[("log", "1234567890")]);
        write(&file, &["abc"]);
        check(directory.path(), &[("log", "abc"), ("log.1", "1234567890")]);
        write(&file, &["long enough for a file", "x"]);
        check(directory.path(), &[("log", "x"), ("log.1", "long enough for a file"), ("log.2", "abc")]);
    }

    #[test]
    fn a_file_of_before_is_added_to_and_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "123456789").unwrap();
        let file = LogFile::open(&path, 10, 2).unwrap();
        write(&file, &["0"]);
        check(directory.path(), &[("log", "1234567890")]);
        write(&file, &["a"]);
        check(directory.path(), &[("log", "a"), ("log.1", "1234567890")]);
    }

    #[test]
    fn where_only_one_is_kept_it_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = LogFile::open(&directory.path().join("log"), 4, 1).unwrap();
        write(&file, &["1234", "abc"]);
        check(directory.path(), &[("log", "abc")]);
    }

    #[test]
    fn what_cannot_be_renamed_grows_and_pushes_nothing_out() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be renamed to the name of a folder that has something in it.
        fs::create_dir_all(directory.path().join("log.1/full")).unwrap();
        fs::create_dir_all(directory.path().join("log.2/full")).unwrap();
        let file = LogFile::open(&directory.path().join("log"), 4, 3).unwrap();
        write(&file, &["1234", "5", "6"]);
        check(directory.path(), &[("log", "123456"), ("log.1", ""), ("log.2", "")]);
    }

    #[test]
    fn one_that_somebody_removed_is_made_again_when_it_is_full_or_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = LogFile::open(&path, 4, 2).unwrap();
        write(&file, &["1234"]);
        fs::remove_file(&path).unwrap();
        write(&file, &["5"]);
        check(directory.path(), &[("log", "5")]);
        assert!(LogFile::open(&directory.path().join("nowhere/log"), 4, 2).is_err());
    }
}
