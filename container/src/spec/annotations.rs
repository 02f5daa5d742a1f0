//! What annotations of gVisor ask for, where that is here too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sandbox::spec::RootLayer;

use super::{Result, Root, invalid};

/// The annotation that names an archive of changes of the root directory; those of a container by its name in its pod stand in
/// one with a point and the name behind.
pub const ROOT_ARCHIVE: &str = "dev.gvisor.tar.rootfs.upper";
const NAME: &str = "io.kubernetes.cri.container-name";

/// The archive that annotations ask for as changes of the root directory.
pub fn root_archive(annotations: &BTreeMap<&str, &str>, bundle: &Path) -> Result<Option<PathBuf>> {
    let named = annotations.get(NAME).map(|name| format!("{ROOT_ARCHIVE}.{name}"));
    let named = named.and_then(|key| annotations.get(key.as_str()));
    match named.or_else(|| annotations.get(ROOT_ARCHIVE)) {
        None => Ok(None),
        Some(&"") => invalid(format!("annotation {ROOT_ARCHIVE} names no file")),
        Some(path) => Ok(Some(bundle.join(path))),
    }
}

/// The image that annotations ask for as the root.
pub fn root_image(annotations: &BTreeMap<&str, &str>, bundle: &Path) -> Result<Option<Root>> {
    const SOURCE: &str = "dev.gvisor.spec.rootfs.source";
    const TYPE: &str = "dev.gvisor.spec.rootfs.type";
    const OVERLAY: &str = "dev.gvisor.spec.rootfs.overlay";
    let source = match (annotations.get(SOURCE), annotations.get(TYPE)) {
        (None, None) => return Ok(None),
        (Some(source), Some(&"erofs")) if !source.is_empty() => source,
        (Some(_), Some(other)) if *other != "erofs" => {
            return invalid(format!("annotation {TYPE}: {other:?} is not supported: erofs"));
        }
        _ => return invalid(format!("the annotations {SOURCE} and {TYPE} go together")),
    };
    let layer = match annotations.get(OVERLAY) {
        None => None,
        Some(&"memory") => Some(RootLayer::Memory),
        Some(&"none") => Some(RootLayer::Through),
        Some(other) => {
            return invalid(format!("annotation {OVERLAY}: {other:?} is not supported: memory, none"));
        }
    };
    // Joining an absolute path gives that.
    Ok(Some(Root::Image { path: bundle.join(source), layer }))
}
