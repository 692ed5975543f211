//! Manifests, indexes and configurations of images, read with care: what they say decides what is
//! fetched, so each is bounded, and every digest in them is one that can be checked.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::brief;
use super::digest::Digest;

/// The most names or platforms that an error tells.
const MOST_TOLD: usize = 32;

/// The most bytes of a manifest, an index or a configuration. Registries themselves take 4 MiB.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
/// The most layers of an image; overlay file systems, for which they are made, take 127.
const MAX_LAYERS: usize = 128;
/// The most arguments and variables of an image's program, and their bytes.
const MAX_WORDS: usize = 1024;
const MAX_WORD_BYTES: usize = 64 << 10;

pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidManifest {
    #[error("its {what} is no valid document: {}", brief(problem))]
    Garbage { what: &'static str, problem: String },
    #[error("it has {0} layers, and {MAX_LAYERS} are the most that are taken")]
    Layers(usize),
    #[error("it is not for linux/{wanted}; it is for: {}", brief(&offered.join(", ")))]
    Platform {
        wanted: String,
        offered: Vec<String>,
    },
    #[error("{}", untold(wanted, offered))]
    Tag {
        wanted: String,
        offered: Vec<String>,
    },
    #[error("it is for {}, and this host runs linux/{wanted}", brief(found))]
    OtherPlatform { wanted: String, found: String },
    #[error("one of its layers is {:?}, which is no layer of an image", brief(_0))]
    MediaType(String),
    #[error("its configuration names {config} layers and its manifest {manifest}")]
    Counts { config: usize, manifest: usize },
    #[error("its program has too many or too long arguments or variables")]
    Words,
}

/// A piece of content: where a manifest points.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The name that an image goes by in a layout.
    fn ref_name(&self) -> Option<&str> {
        let name = self.annotations.get("org.opencontainers.image.ref.name");
        name.map(String::as_str)
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// A manifest of one image.
#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// Several images, one of which is the wanted one.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a reference leads to.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// The processor of this host in the words of images.
pub(crate) fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, InvalidManifest> {
    serde_json::from_slice(bytes).map_err(|error| InvalidManifest::Garbage {
        what,
        problem: error.to_string(),
    })
}

impl Document {
    /// Reads a manifest or an index. Which of them it is, its content says; media types are
    /// optional in it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, InvalidManifest> {
        #[derive(Deserialize)]
        struct Shape {
            manifests: Option<serde::de::IgnoredAny>,
        }
        if read::<Shape>("manifest", bytes)?.manifests.is_some() {
            return Ok(Self::Index(read("index", bytes)?));
        }
        let manifest: Manifest = read("manifest", bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(InvalidManifest::Layers(manifest.layers.len()));
        }
        for Descriptor { media_type, .. } in &manifest.layers {
            let is_layer = media_type.is_empty()
                || media_type.contains(".image.layer.")
                || media_type.contains(".image.rootfs.");
            if !is_layer {
                return Err(InvalidManifest::MediaType(media_type.clone()));
            }
        }
        Ok(Self::Manifest(manifest))
    }
}

impl Index {
    /// The image for this host: the one of that name, if one is wanted, and of our platform.
    pub(crate) fn choose(&self, tag: Option<&str>) -> Result<&Descriptor, InvalidManifest> {
        let ours = |d: &&Descriptor| match &d.platform {
            Some(p) => p.os == "linux" && p.architecture == this_architecture(),
            // A layout's index mostly does not say; the image's configuration will.
            None => true,
        };
        let named = |d: &&Descriptor| tag.is_none() || d.ref_name() == tag;
        let named: Vec<&Descriptor> = self.manifests.iter().filter(named).collect();
        if let (Some(tag), true) = (tag, named.is_empty()) {
            let names = self.manifests.iter().filter_map(Descriptor::ref_name);
            return Err(InvalidManifest::of_tag(tag, names));
        }
        named
            .iter()
            .copied()
            .find(ours)
            .ok_or_else(|| InvalidManifest::Platform {
                wanted: this_architecture().to_owned(),
                offered: named.into_iter().take(MOST_TOLD).map(offer).collect(),
            })
    }
}

impl InvalidManifest {
    fn of_tag<'a>(wanted: &str, offered: impl Iterator<Item = &'a str>) -> Self {
        let mut offered: Vec<_> = offered.map(str::to_owned).collect();
        offered.sort();
        // Once for each platform, perhaps.
        offered.dedup();
        offered.truncate(MOST_TOLD);
        let wanted = wanted.to_owned();
        Self::Tag { wanted, offered }
    }
}

/// What is said of a name that nothing has.
fn untold(wanted: &str, offered: &[String]) -> String {
    let wanted = brief(wanted);
    match offered {
        [] => format!("it has no image named {wanted:?}, nor any with a name; leave the name out"),
        offered => {
            let offered = offered.join(", ");
            format!(
                "it has no image named {wanted:?}; it has: {}",
                brief(&offered)
            )
        }
    }
}

fn offer(descriptor: &Descriptor) -> String {
    let platform = descriptor.platform.as_ref();
    let platform = platform.map(|p| format!("{}/{}", p.os, p.architecture));
    let words = [descriptor.ref_name().map(str::to_owned), platform];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() {
        return "an image without a name".to_owned();
    }
    words.join(" ")
}

/// What an image's configuration says should run in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ImageProgram {
    /// The program, with what always comes first among its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its further arguments, or the program when there is no entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Variables, as `NAME=VALUE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The directory that it starts in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// The user that it runs as, as the image says it: a name or a number, perhaps with a group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
}

impl ImageProgram {
    /// The program and its arguments.
    pub fn argv(&self) -> impl Iterator<Item = &str> {
        self.entrypoint.iter().chain(&self.cmd).map(String::as_str)
    }
}

/// The configuration of an image, as far as it is used.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) program: ImageProgram,
    /// The digests of the unpacked layers, lowest first.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a configuration and checks that it is for this host and for so many layers.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self, InvalidManifest> {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Program {
            entrypoint: Option<Vec<String>>,
            cmd: Option<Vec<String>>,
            env: Option<Vec<String>>,
            working_dir: Option<String>,
            user: Option<String>,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<Digest>,
        }
        #[derive(Deserialize)]
        struct Raw {
            architecture: String,
            os: String,
            #[serde(default)]
            config: Option<Program>,
            rootfs: RootFs,
        }
        let raw: Raw = read("configuration", bytes)?;
        if raw.os != "linux" || raw.architecture != this_architecture() {
            return Err(InvalidManifest::OtherPlatform {
                wanted: this_architecture().to_owned(),
                found: format!("{}/{}", raw.os, raw.architecture),
            });
        }
        let diff_ids = raw.rootfs.diff_ids;
        if diff_ids.len() != layers {
            return Err(InvalidManifest::Counts {
                config: diff_ids.len(),
                manifest: layers,
            });
        }
        let program = raw.config.unwrap_or_default();
        let program = ImageProgram {
            entrypoint: program.entrypoint.unwrap_or_default(),
            cmd: program.cmd.unwrap_or_default(),
            env: program.env.unwrap_or_default(),
            working_dir: program.working_dir.unwrap_or_default(),
            user: program.user.unwrap_or_default(),
        };
        let words = || program.argv().chain(program.env.iter().map(String::as_str));
        let bytes: usize = words().map(str::len).sum();
        let short = words().count() <= MAX_WORDS
            && bytes + program.working_dir.len() + program.user.len() <= MAX_WORD_BYTES;
        let mut all = words().chain([&*program.working_dir, &*program.user]);
        if !short || all.any(|word| word.contains('\0')) {
            return Err(InvalidManifest::Words);
        }
        drop(all);
        Ok(Self { program, diff_ids })
    }
}

/// One image of a `docker save` archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

impl Saved {
    /// Reads `manifest.json` and chooses the image of that name, or the first.
    pub(crate) fn choose(bytes: &[u8], tag: Option<&str>) -> Result<Self, InvalidManifest> {
        let images: Vec<Self> = read("manifest.json", bytes)?;
        let tags = |image: &Self| image.repo_tags.clone().unwrap_or_default();
        let offered: Vec<String> = images.iter().flat_map(tags).collect();
        let mut images = images.into_iter();
        let chosen = match tag {
            Some(tag) => images
                .find(|image| tags(image).iter().any(|name| name == tag))
                .ok_or_else(|| InvalidManifest::of_tag(tag, offered.iter().map(String::as_str)))?,
            None => images.next().ok_or_else(|| InvalidManifest::Garbage {
                what: "manifest.json",
                problem: "no image is in it".to_owned(),
            })?,
        };
        if chosen.layers.len() > MAX_LAYERS {
            return Err(InvalidManifest::Layers(chosen.layers.len()));
        }
        Ok(chosen)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn descriptor(platform: Option<(&str, &str)>) -> serde_json::Value {
        let mut value = json!({ "digest": Digest::of(b"x").to_string(), "size": 1 });
        if let Some((os, architecture)) = platform {
            value["platform"] = json!({ "os": os, "architecture": architecture });
        }
        value
    }

    #[test]
    fn of_many_platforms_ours_is_chosen_and_of_others_none() {
        let index = |platforms: &[(&str, &str)]| {
            let manifests: Vec<_> = platforms.iter().map(|p| descriptor(Some(*p))).collect();
            let text = json!({ "manifests": manifests }).to_string();
            match Document::parse(text.as_bytes()).unwrap() {
                Document::Index(index) => index,
                other => panic!("{other:?}"),
            }
        };
        let ours = ("linux", this_architecture());
        let chosen = index(&[("windows", ours.1), ("linux", "s390x"), ours]);
        let chosen = chosen.choose(None).unwrap();
        assert_eq!(chosen.platform.as_ref().unwrap().architecture, ours.1);
        let error = index(&[("linux", "s390x")]).choose(None).unwrap_err();
        assert!(
            error.to_string().ends_with("it is for: linux/s390x"),
            "{error}"
        );
    }

    #[test]
    fn a_name_that_nothing_has_is_told_apart_from_a_platform() {
        let index = |manifests: serde_json::Value| {
            let text = json!({ "manifests": manifests }).to_string();
            match Document::parse(text.as_bytes()).unwrap() {
                Document::Index(index) => index,
                other => panic!("{other:?}"),
            }
        };
        let named = |name: &str, architecture: &str| {
            let mut value = descriptor(Some(("linux", architecture)));
            value["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
            value
        };
        let ours = this_architecture();
        let layout = index(json!([
            named("2", ours),
            named("1", "s390x"),
            named("1", "riscv64")
        ]));
        let told = |tag| layout.choose(Some(tag)).unwrap_err().to_string();
        assert_eq!(told("3"), "it has no image named \"3\"; it has: 1, 2");
        assert!(
            told("1").ends_with("it is for: 1 linux/s390x, 1 linux/riscv64"),
            "{}",
            told("1")
        );
        assert!(layout.choose(Some("2")).is_ok());
        let nameless = index(json!([descriptor(None)]));
        let told = nameless.choose(Some("3")).unwrap_err().to_string();
        assert!(told.ends_with("leave the name out"), "{told}");
    }

    #[test]
    fn a_manifest_is_bounded_and_names_layers_only() {
        let manifest = |layers: Vec<serde_json::Value>| {
            let text = json!({ "config": descriptor(None), "layers": layers }).to_string();
            Document::parse(text.as_bytes())
        };
        assert!(manifest(vec![descriptor(None); 128]).is_ok());
        assert!(matches!(
            manifest(vec![descriptor(None); 129]),
            Err(InvalidManifest::Layers(129))
        ));
        let mut chart = descriptor(None);
        chart["mediaType"] = "application/vnd.cncf.helm.chart.content.v1.tar+gzip".into();
        assert!(matches!(
            manifest(vec![chart]),
            Err(InvalidManifest::MediaType(_))
        ));
    }

    #[test]
    fn whatever_a_document_says_it_is_refused_in_a_few_words() {
        let long = "\u{1}".repeat(1 << 20);
        let mut layer = descriptor(None);
        layer["mediaType"] = long.clone().into();
        let manifest = json!({ "config": descriptor(None), "layers": [layer] });
        let index = json!({ "manifests": vec![descriptor(Some((&long, &long))); 3] });
        let config = json!({
            "architecture": long, "os": long, "rootfs": { "diff_ids": [] }
        });
        let errors = [
            Document::parse(manifest.to_string().as_bytes()).unwrap_err(),
            Document::parse(
                json!({ "config": long, "layers": [] })
                    .to_string()
                    .as_bytes(),
            )
            .unwrap_err(),
            match Document::parse(index.to_string().as_bytes()).unwrap() {
                Document::Index(index) => index.choose(None).unwrap_err(),
                other => panic!("{other:?}"),
            },
            Config::parse(config.to_string().as_bytes(), 0).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().len() < 5000);
        }
    }

    #[test]
    fn a_configuration_has_to_be_for_this_host_and_for_these_layers() {
        let config = |architecture: &str, layers| {
            let text = json!({
                "architecture": architecture, "os": "linux",
                "config": { "Cmd": ["sh"], "Env": null },
                "rootfs": { "diff_ids": [Digest::of(b"x").to_string()] }
            });
            Config::parse(text.to_string().as_bytes(), layers)
        };
        let ours = config(this_architecture(), 1).unwrap();
        assert_eq!(ours.program.argv().collect::<Vec<_>>(), ["sh"]);
        assert!(matches!(
            config("mips", 1),
            Err(InvalidManifest::OtherPlatform { .. })
        ));
        assert!(matches!(
            config(this_architecture(), 2),
            Err(InvalidManifest::Counts { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_document_is_too_strange_to_be_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[\\[\\]{}\":,a-z0-9]{0,80}",
        ) {
            for document in [&bytes[..], text.as_bytes()] {
                let _ = Document::parse(document);
                let _ = Config::parse(document, 1);
                let _ = Saved::choose(document, None);
            }
        }
    }
}
