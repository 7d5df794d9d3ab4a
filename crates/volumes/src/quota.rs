//! A directory that may hold only so many bytes, on any file system.
//!
//! Where the file system below the data root holds projects to limits, a directory is a project
//! (`project`). Everywhere else it is the mount point of an ext4 in a sparse file beside it
//! (`image`), on a loop device that goes when the mount does; `df` in there shows the limit either
//! way. What a directory has is seen in the directory itself, not written down anywhere: there is
//! its file, or its project.

mod image;
mod loops;
mod make;
mod project;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

pub use image::DISK;

use crate::mounts::{is_mounted, unmount_from};
use crate::{Result, VolumeError};
use project::Projects;

/// What an ext4 can be made in.
const LEAST: u64 = 1 << 20;

/// How much a directory holds, and how much it may; in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub used: u64,
    pub limit: u64,
}

/// How the limits of a directory are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Nothing limits it.
    None,
    Project(u32),
    Image,
}

/// Limits of directories below one data root. Whoever changes a directory is the only one who
/// does so.
pub struct Quotas {
    root: PathBuf,
    projects: Option<Projects>,
}

/// What a directory leaves behind when it is gone.
#[must_use]
pub struct Leaving<'a> {
    quotas: &'a Quotas,
    project: Option<u32>,
}

impl Quotas {
    /// Looks at what the file system of the data root can do.
    pub fn open(root: &Path) -> Self {
        let projects = Projects::probe(root);
        tracing::debug!(projects = projects.is_some(), "limits of directories");
        Self { root: root.to_owned(), projects }
    }

    /// Without projects, whatever the file system can do.
    pub fn with_images(root: &Path) -> Self {
        Self { root: root.to_owned(), projects: None }
    }

    /// Whether the file system itself holds directories to limits.
    pub fn has_projects(&self) -> bool {
        self.projects.is_some()
    }

    /// Makes a directory that may hold so many bytes, with what `fill` makes in it. It is on the
    /// disk when this returns, but for its name.
    pub fn limited(
        &self,
        directory: &Path,
        bytes: u64,
        fill: impl FnOnce(BorrowedFd<'_>) -> std::io::Result<()>,
    ) -> Result<()> {
        check(bytes)?;
        match &self.projects {
            Some(projects) => projects.make(directory, bytes, fill),
            None => image::make(directory, bytes, fill),
        }
    }

    /// What limits a directory.
    pub fn means(&self, directory: &Path) -> Means {
        if image::file_of(directory).exists() {
            return Means::Image;
        }
        let project = self.projects.as_ref().and_then(|projects| projects.of(directory));
        project.map_or(Means::None, Means::Project)
    }

    /// From now on the directory shows what it holds; again is fine.
    pub fn attach(&self, directory: &Path) -> Result<()> {
        match self.means(directory) {
            Means::Image if !is_mounted(directory) => image::attach(directory),
            _ => Ok(()),
        }
    }

    /// Nobody uses it for now; again is fine.
    pub fn detach(&self, directory: &Path) -> Result<()> {
        match self.means(directory) {
            Means::Image if is_mounted(directory) => unmount_from(directory),
            _ => Ok(()),
        }
    }

    /// Lets it hold more, also while it is in use. Less is refused.
    pub fn grow(&self, directory: &Path, bytes: u64) -> Result<()> {
        check(bytes)?;
        let means = self.means(directory);
        if means == Means::None {
            return Err(VolumeError::Invalid(format!(
                "{} has no limit that could grow",
                directory.display()
            )));
        }
        let limit = self.usage(directory)?.limit;
        if bytes < limit {
            return Err(VolumeError::Invalid(format!(
                "it may hold {limit} bytes already: a limit can grow, but not shrink to {bytes}"
            )));
        }
        match (means, &self.projects) {
            (Means::Project(id), Some(projects)) => projects.limit(id, bytes),
            _ if bytes == limit => Ok(()),
            _ => image::grow(directory, bytes),
        }
    }

    /// How full it is. What a file holds that is not in use is told by what it takes of the disk.
    pub fn usage(&self, directory: &Path) -> Result<Usage> {
        match (self.means(directory), &self.projects) {
            (Means::Image, _) => image::usage(directory),
            (Means::Project(id), Some(projects)) => projects.usage(id),
            _ => Err(VolumeError::Invalid(format!("{} has no limit", directory.display()))),
        }
    }

    /// What of the disk below the data root it takes, which is more than it holds where that is a
    /// file system of its own.
    pub fn on_disk(&self, directory: &Path) -> Result<u64> {
        match self.means(directory) {
            Means::Image => image::on_disk(directory),
            _ => Ok(self.usage(directory)?.used),
        }
    }

    /// It is about to be removed, with whatever lies beside it: nothing is mounted there any more.
    /// Afterwards `Leaving::gone` has to be called.
    pub fn leave(&self, directory: &Path) -> Result<Leaving<'_>> {
        self.detach(directory)?;
        let project = match self.means(directory) {
            Means::Project(id) => Some(id),
            _ => None,
        };
        Ok(Leaving { quotas: self, project })
    }

    /// Removes it with everything in it.
    pub fn remove(&self, directory: &Path) -> Result<()> {
        let leaving = self.leave(directory)?;
        let gone = |path: &Path, removed: std::io::Result<()>| match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(VolumeError::io("remove", path.display())(error))
            }
            _ => Ok(()),
        };
        gone(directory, std::fs::remove_dir_all(directory))?;
        let file = image::file_of(directory);
        gone(&file, std::fs::remove_file(&file))?;
        leaving.gone();
        Ok(())
    }

    /// What a killed daemon has left: mounts of ours that nobody uses are taken off (and with them
    /// go their loop devices), limits of directories that are no more are taken away.
    pub fn settle(&self, in_use: impl Fn(&Path) -> bool) {
        for directory in image::mounted_below(&self.root) {
            if !in_use(&directory)
                && let Err(error) = unmount_from(&directory)
            {
                tracing::warn!(directory = %directory.display(), %error, "take off an unused mount");
            }
        }
        if let Some(projects) = &self.projects {
            projects.settle();
        }
    }
}

impl Leaving<'_> {
    /// Nobody finds the directory any more, also if it is still being deleted.
    pub fn gone(self) {
        if let (Some(id), Some(projects)) = (self.project, &self.quotas.projects)
            && let Err(error) = projects.limit(id, 0)
        {
            tracing::warn!(project = id, %error, "take a limit away");
        }
    }
}

fn check(bytes: u64) -> Result<()> {
    if bytes < LEAST {
        return Err(VolumeError::Invalid(format!(
            "a limit of {bytes} bytes: the least is {LEAST} (1 MiB)"
        )));
    }
    Ok(())
}
