//! Deserializers that follow the API's JSON schema, where serde alone accepts too much or too little.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

/// Deserializes a member that is present. `null` is refused unless `T` accepts it.
///
/// Used with `#[serde(default)]`, it tells a member that is `null` from one that is missing.
pub fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// Deserializes a member that is present and an object.
pub fn present_object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Object::deserialize(deserializer).map(|Object(object)| Some(object))
}

/// Deserializes a whole number or `null`. A number may be written with a fraction of zero, such as `5.0`.
pub fn whole<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: TryFrom<u32>,
    D: Deserializer<'de>,
{
    let Some(number) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a u32's range was just checked"
    )]
    let whole = is_whole.then_some(number as u32).and_then(|number| T::try_from(number).ok());
    whole.map(Some).ok_or_else(|| D::Error::custom("not a whole number in its range"))
}

/// Deserializes a whole number or `null` of a member that is present. The outer `Option` is `None` for a missing one.
pub fn present_whole_or_null<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: TryFrom<u32>,
    D: Deserializer<'de>,
{
    whole(deserializer).map(Some)
}

/// Deserializes a whole number of a member that is present. `null` is refused.
pub fn present_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    whole(deserializer)?.ok_or_else(|| D::Error::custom("null")).map(Some)
}

/// A JSON object. Serde alone would also accept an array of the members' values.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}
