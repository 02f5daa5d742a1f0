//! What others than its processes do with a container's files.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::pipe::PipeFlags;
use sandbox::control::{ClientError, Request, Response};
use sandbox::spec::{Bytes, Descriptor};

use super::Container;
use crate::convert::Parcel;
use crate::error::{Error, Result};
use crate::status::Action;

impl Container {
    /// Writes a regular file of the container to `out`, or so many bytes of it from an offset on.
    ///
    /// # Errors
    /// If there is no such file, the container has ended, or `out` takes no more.
    pub fn read_file(
        &self,
        path: Vec<u8>,
        offset: u64,
        size: Option<u64>,
        out: impl Write + Send,
    ) -> Result<()> {
        Action::Read.check(&self.id, self.status)?;
        let container = self.name();
        self.pass_on(Request::Read { container, path: Bytes(path), offset, size, output: Descriptor(0) }, out)
    }

    /// Writes what was changed of the root directory, which a layer in memory holds, to `out`, as a tar archive.
    ///
    /// # Errors
    /// If it has no such layer or has ended, or `out` takes no more.
    pub fn write_layer(&self, out: impl Write + Send) -> Result<()> {
        Action::Archive.check(&self.id, self.status)?;
        self.pass_on(Request::WriteLayer { container: self.name(), output: Descriptor(0) }, out)
    }

    /// Mounts an EROFS image in the container; the directory `destination` is made if it does not exist.
    ///
    /// # Errors
    /// If the image cannot be used, the place cannot be made, or the container has ended.
    pub fn mount_image(&self, source: &Path, destination: &str) -> Result<()> {
        Action::Mount.check(&self.id, self.status)?;
        let mut parcel = Parcel::default();
        let image = parcel.open_image(source)?;
        let request = Request::Mount {
            container: self.name(),
            image,
            source: source.to_string_lossy().into_owned(),
            destination: destination.to_owned(),
        };
        let descriptors: Vec<_> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
        match self.call(request, &descriptors)? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Confused.into()),
        }
    }

    /// Makes a request with a pipe, and writes what comes out of that to `out`: the sandbox gets no file of the caller.
    fn pass_on(&self, request: Request, mut out: impl Write + Send) -> Result<()> {
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Error::host("make a pipe"))?;
        let (answered, copied) = std::thread::scope(|scope| {
            let copying =
                scope.spawn(move || io::copy(&mut File::from(reader), &mut out).and_then(|_| out.flush()));
            let answered = self.call(request, &[writer.as_fd()]);
            // The end of the pipe is where nobody has this any more.
            drop(writer);
            (answered, copying.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
        });
        // Whoever takes no more makes the sandbox fail, too.
        copied.map_err(Error::host("write what was read"))?;
        match answered? {
            Response::Done => Ok(()),
            _ => Err(ClientError::Confused.into()),
        }
    }
}
