//! Reading YAML of somebody who may not be trusted: a few lines with aliases can stand for more than fits into memory.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize as _;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess as _, Visitor,
};
use serde_yaml_ng::Value;

/// How many values a text may stand for.
const MOST_VALUES: usize = 2_000_000;

/// The documents of a text that are not empty; an error says what is wrong.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let left = Cell::new(MOST_VALUES);
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        Count(&left).deserialize(document).map_err(|e| e.to_string())?;
    }
    let documents = serde_yaml_ng::Deserializer::from_str(text);
    // By way of YAML's own values, which know when a key is given twice.
    let read = documents.map(|document| Value::deserialize(document).map_err(|e| e.to_string()));
    let all: Result<Vec<_>, _> = read.collect();
    Ok(all?.into_iter().filter(|document| !document.is_null()).collect())
}

/// Whether a text stands for too much, for whoever reads it next. What is not valid is for them to explain.
pub(crate) fn is_too_much(text: &str) -> bool {
    let left = Cell::new(MOST_VALUES);
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        if Count(&left).deserialize(document).is_err() {
            // Also an exponential one, which the parser itself gives up on.
            return left.get() == 0 || text.matches('*').count() > MOST_ALIASES;
        }
    }
    false
}

/// How many aliases a text may have that does not parse.
const MOST_ALIASES: usize = 50;

/// Visits every value, and keeps none.
#[derive(Clone, Copy)]
struct Count<'a>(&'a Cell<usize>);

impl Count<'_> {
    fn one<E: de::Error>(self) -> Result<(), E> {
        match self.0.get().checked_sub(1) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(E::custom(format!("it stands for more than {MOST_VALUES} values"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.one()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.one()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.one()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.one()
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        self.one()
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.one()
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        self.one()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.one()?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.one()?;
        while members.next_key_seed(self)?.is_some() {
            members.next_value_seed(self)?;
        }
        Ok(())
    }

    // A value with a tag.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let ((), value) = tagged.variant_seed(self)?;
        value.newtype_variant_seed(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_stands_for_too_much_is_refused_before_it_is_read() {
        let bomb =
            format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 20_000].join(","), vec!["*a"; 20_000].join(","));
        let why = documents(&bomb).unwrap_err();
        assert!(why.contains("more than 2000000 values"), "{why}");
        assert_eq!(documents("---\n---\na: !tag [1, {b: c}]\n").unwrap().len(), 1);
    }
}
