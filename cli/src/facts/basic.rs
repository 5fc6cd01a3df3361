//! What many facts are made of: numbers as text, faults, what an image lacks.

use std::borrow::Cow;

use heirloom_kho::PhysAddr;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::{Serialize, Serializer};

use crate::image::Image;
use crate::survey::Finding;

/// The version of what is printed as JSON: it changes where a field changes its meaning or goes,
/// not where one comes.
pub(crate) const VERSION: u32 = 1;

/// A number as text: `"0x1000"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Hex(pub(crate) u64);

impl From<PhysAddr> for Hex {
    fn from(addr: PhysAddr) -> Self {
        Self(addr.get())
    }
}

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:#x}", self.0))
    }
}

impl JsonSchema for Hex {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Hex".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0x[0-9a-f]+$" })
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a core declares and the image does not have.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Passed {
    /// Segments without a physical address.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) unaddressed_segments: u64,
    /// Bytes that are declared and not in the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) declared_bytes: u64,
    /// Whether those are taken for zeroes, and so are there.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub(crate) zero_excluded: bool,
    /// Bytes that should be in the file, which ends before.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) cut_bytes: u64,
    /// Why the file is not whole, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broken: Option<String>,
    /// Bytes behind what is packed that are no part of it.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) behind_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Passed {
    pub(super) fn of(image: &Image) -> Self {
        let crate::image::Passed { unaddressed, declared, zeroes, cut, broken, behind } =
            image.passed();
        Self {
            unaddressed_segments: *unaddressed,
            declared_bytes: *declared,
            zero_excluded: *zeroes,
            cut_bytes: *cut,
            broken: broken.clone(),
            behind_bytes: *behind,
        }
    }
}

/// Something wrong.
#[derive(Clone, Debug, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct Fault {
    pub(crate) at: Option<Hex>,
    /// What it is, in words that stay.
    pub(crate) code: String,
    pub(crate) reason: String,
    /// What to do about it, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<&'static str>,
}

impl From<&Finding> for Fault {
    fn from(found: &Finding) -> Self {
        Self {
            at: found.at.map(Hex::from),
            code: found.code.clone(),
            reason: found.reason.clone(),
            advice: found.advice,
        }
    }
}

/// Whether the user vouches for `name`: a `*` at the end of what is accepted stands for anything.
pub(super) fn accepts(accepted: &[String], name: &str) -> bool {
    accepted.iter().any(|accepted| match accepted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == accepted,
    })
}
