//! What annotations of gVisor ask for, where that is here too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::layer::{self, Layer, Medium};
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

const SOURCE: &str = "dev.gvisor.spec.rootfs.source";
const TYPE: &str = "dev.gvisor.spec.rootfs.type";
const OVERLAY: &str = "dev.gvisor.spec.rootfs.overlay";
const OPTIONS: &str = "dev.gvisor.spec.rootfs.options";

/// Names the annotations for gVisor that mean nothing here.
pub fn review(annotations: &BTreeMap<&str, &str>, warnings: &mut Vec<String>) {
    let means_something = |name: &str| {
        let archive = name.strip_prefix(ROOT_ARCHIVE);
        [SOURCE, TYPE, OVERLAY, OPTIONS].contains(&name)
            || archive.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let ignored = annotations.keys().filter(|name| name.starts_with("dev.gvisor.") && !means_something(name));
    warnings.extend(ignored.map(|name| format!("annotation {name} is ignored")));
}

/// The image that annotations ask for as the root directory, if they do. A directory can only be that which the root is anyway:
/// those who write annotations may be others than those who say what a container sees of the host.
pub fn root_image(annotations: &BTreeMap<&str, &str>, bundle: &Path, root: &Path) -> Result<Option<Root>> {
    // Joining an absolute path gives that.
    match (annotations.get(SOURCE), annotations.get(TYPE)) {
        (None, None) => Ok(None),
        (Some(source), Some(&"erofs")) if !source.is_empty() => Ok(Some(Root::Image(bundle.join(source)))),
        (Some(source), Some(&"bind")) if bundle.join(source) == bundle.join(root) => Ok(None),
        (Some(source), Some(&"bind")) => {
            invalid(format!("annotation {SOURCE}: {source:?} is not root.path, {}", root.display()))
        }
        (Some(_), Some(other)) if *other != "erofs" => {
            invalid(format!("annotation {TYPE}: {other:?} is not supported: erofs, bind"))
        }
        _ => invalid(format!("the annotations {SOURCE} and {TYPE} go together")),
    }
}

/// Where annotations want changes of the root directory to go, if they say.
pub fn root_layer(annotations: &BTreeMap<&str, &str>) -> Result<Option<Layer>> {
    let size = match annotations.get(OPTIONS).filter(|options| !options.is_empty()) {
        None => None,
        Some(options) => match options.strip_prefix("size=").map(layer::parse_size) {
            Some(Ok(size)) => Some(size),
            Some(Err(text)) => return invalid(format!("annotation {OPTIONS}: {text}")),
            None => {
                return invalid(format!("annotation {OPTIONS}: {options:?} is not supported: size=BYTES"));
            }
        },
    };
    let overlay = annotations.get(OVERLAY).map(|text| Layer::parse(text));
    match (overlay, size) {
        (Some(Err(text)), _) => invalid(format!("annotation {OVERLAY}: {text}")),
        // A file of the host that anybody may name by an annotation is too much.
        (Some(Ok(Layer { medium: Medium::Directory(_), .. })), _) => {
            invalid(format!("annotation {OVERLAY}: dir= is for --overlay2 only"))
        }
        (None | Some(Ok(Layer { medium: Medium::None, .. })), Some(_)) => {
            invalid(format!("annotation {OPTIONS}: a size is for a layer, which {OVERLAY} asks for"))
        }
        (overlay, size) => {
            let layer = overlay.transpose().unwrap_or_default();
            Ok(layer.map(|layer| Layer { size: size.unwrap_or(layer.size), ..layer }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_for_gvisor_that_mean_nothing_are_named() {
        let all = [
            (SOURCE, "rootfs"),
            ("dev.gvisor.tar.rootfs.upper.name", "a.tar"),
            ("dev.gvisor.tar.rootfs.upperx", "x"),
            ("dev.gvisor.spec.mount.data.share", "pod"),
            ("org.example", "x"),
        ];
        let mut warnings = Vec::new();
        review(&all.into(), &mut warnings);
        let expected = ["dev.gvisor.spec.mount.data.share", "dev.gvisor.tar.rootfs.upperx"];
        assert_eq!(warnings, expected.map(|name| format!("annotation {name} is ignored")));
    }

    #[test]
    fn a_pods_annotations_name_an_archive_for_each_of_its_containers() {
        let archive = |all: &[(&str, &str)]| {
            root_archive(&all.iter().copied().collect(), Path::new("/b")).ok().flatten()
        };
        let both = [(ROOT_ARCHIVE, "/all.tar"), ("dev.gvisor.tar.rootfs.upper.web", "web.tar")];
        assert_eq!(archive(&[]), None);
        assert_eq!(archive(&both), Some("/all.tar".into()));
        assert_eq!(archive(&[&both[..], &[(NAME, "web")]].concat()), Some("/b/web.tar".into()));
        assert_eq!(archive(&[&both[..], &[(NAME, "other")]].concat()), Some("/all.tar".into()));
        assert!(root_archive(&[(ROOT_ARCHIVE, "")].into(), Path::new("/b")).is_err());
    }
}
