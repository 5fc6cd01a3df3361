//! The schema of what is printed as JSON, made from what is printed.

use schemars::Schema;
use schemars::generate::SchemaSettings;

use crate::arguments::Printed;
use crate::diff::Difference;
use crate::facts::{Checked, Facts};
use crate::list::Line;
use crate::status::Told;

/// Returns the schema, of the draft of 2020-12.
pub(crate) fn of(printed: Printed) -> Schema {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    match printed {
        Printed::Inspect => generator.into_root_schema_for::<Facts>(),
        Printed::Check => generator.into_root_schema_for::<Checked>(),
        Printed::List => generator.into_root_schema_for::<Line>(),
        Printed::Diff => generator.into_root_schema_for::<Difference>(),
        Printed::Status => generator.into_root_schema_for::<Told>(),
    }
}
