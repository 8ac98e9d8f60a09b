//! The reference of the JSON document, made from the doc comments of its fields: `docs/json.md` and the JSON Schema.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::trust::rich_parts;
use super::*;
use crate::result::Fleet;

/// A table of fields: for each path its type and what its doc comment says. A field without a doc comment stands in the row
/// of the one before it.
struct Reference<'a> {
    root: &'a Value,
    /// Every path of a document, in the order in which its fields are written.
    order: Vec<String>,
    /// Where the fields of a definition were listed first.
    listed: HashMap<String, String>,
    rows: Vec<Row>,
}

struct Row {
    paths: Vec<String>,
    kinds: Vec<String>,
    text: String,
}

impl<'a> Reference<'a> {
    fn new(root: &'a Value, documents: &[String]) -> Self {
        let mut order = Vec::new();
        for document in documents {
            serde_json::from_str::<Ordered>(document).unwrap().paths("", &mut order);
        }
        let listed = ["#", "RunResult"].map(|name| (name.to_owned(), "the document itself".to_owned()));
        Self { root, order, listed: listed.into(), rows: Vec::new() }
    }

    /// The place of a field; directly behind its parent where no document has it.
    fn position(&self, path: &str) -> usize {
        let parent = || path.rsplit_once('.').map_or(usize::MAX, |(parent, _)| self.position(parent));
        self.order.iter().position(|known| known == path).unwrap_or_else(parent)
    }

    fn list(&mut self, schema: &'a Value, parent: &str, is_wanted: &dyn Fn(&str) -> bool) {
        let path = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
        let fields = schema["properties"].as_object().unwrap();
        let mut fields: Vec<_> = fields.iter().filter(|(name, _)| is_wanted(name)).collect();
        fields.sort_by_key(|(name, _)| self.position(&path(name)));
        for (name, field) in fields {
            let (kind, definition) = self.kind(field);
            let path = path(name);
            let text = field["description"].as_str().map(|text| text.replace('\n', " "));
            let Some(mut text) = text else {
                let row = self.rows.last_mut().unwrap_or_else(|| panic!("{path} has no doc comment"));
                row.paths.push(path);
                row.kinds.extend((!row.kinds.contains(&kind)).then_some(kind));
                continue;
            };
            let listed = definition.and_then(|(name, _)| self.listed.get(name));
            if let Some((_, variants)) = definition.filter(|(_, definition)| definition["oneOf"].is_array()) {
                for variant in variants["oneOf"].as_array().unwrap() {
                    let meaning = variant["description"].as_str().unwrap_or_default();
                    text += &format!(" `{}`: {meaning}", variant["const"].as_str().unwrap());
                }
            } else if let Some(listed) = listed {
                text += &format!(" Fields as in {listed}.");
            }
            let is_list = kind.starts_with("list");
            let expanded = definition.filter(|(_, it)| it["properties"].is_object() && listed.is_none());
            self.rows.push(Row { paths: vec![path.clone()], kinds: vec![kind], text });
            if let Some((name, definition)) = expanded {
                self.listed.insert(name.to_owned(), format!("`{path}`"));
                self.list(definition, &if is_list { path + "[]" } else { path }, &|_| true);
            }
        }
    }

    /// What a value is in words, and the definition of its fields or variants.
    fn kind(&self, schema: &'a Value) -> (String, Option<(&'a str, &'a Value)>) {
        if let Some(options) = schema["anyOf"].as_array() {
            let (kind, definition) = self.kind(&options[0]);
            return (format!("{kind} or null"), definition);
        }
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap();
            let definition = if name == "#" { self.root } else { &self.root["$defs"][name] };
            let kind = if definition["properties"].is_object() { "object" } else { "string" };
            return (kind.to_owned(), Some((name, definition)));
        }
        match &schema["type"] {
            Value::Array(kinds) => {
                let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
                (kinds.join(" or "), None)
            }
            kind if kind == "array" => {
                let (kind, definition) = self.kind(&schema["items"]);
                (format!("list of {kind}s"), definition)
            }
            kind => (kind.as_str().unwrap_or("anything").to_owned(), None),
        }
    }

    fn take_table(&mut self) -> String {
        let mut table = "| Field | Type | Content |\n|---|---|---|\n".to_owned();
        for Row { paths, kinds, text } in self.rows.drain(..) {
            // Only the first name has its path.
            let names = paths.iter().enumerate().map(|(at, path)| match path.rsplit_once('.') {
                Some((_, name)) if at > 0 => format!("`{name}`"),
                _ => format!("`{path}`"),
            });
            table += &format!("| {} | {} | {text} |\n", names.collect::<Vec<_>>().join(", "), kinds.join(", "));
        }
        table
    }
}

/// A JSON document whose fields stand in the order of its text.
enum Ordered {
    Object(Vec<(String, Ordered)>),
    Array(Vec<Ordered>),
    Plain,
}

impl Ordered {
    fn paths(&self, path: &str, found: &mut Vec<String>) {
        if !path.is_empty() && !found.iter().any(|known| known == path) {
            found.push(path.to_owned());
        }
        match self {
            Self::Object(fields) => fields.iter().for_each(|(name, field)| {
                let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                field.paths(&inner, found);
            }),
            Self::Array(items) => items.iter().for_each(|item| item.paths(&format!("{path}[]"), found)),
            Self::Plain => {}
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Ordered;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Ordered::Object(fields))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ordered, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Ordered::Array(items))
            }
            fn visit_unit<E>(self) -> Result<Ordered, E> {
                Ok(Ordered::Plain)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Ordered, E> {
                Ok(Ordered::Plain)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Ordered, E> {
                Ok(Ordered::Plain)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Ordered, E> {
                Ok(Ordered::Plain)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Ordered, E> {
                Ok(Ordered::Plain)
            }
            fn visit_str<E>(self, _: &str) -> Result<Ordered, E> {
                Ok(Ordered::Plain)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Replaces what stands between a mark and the next end mark.
fn between_marks(page: &str, name: &str, content: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/json.md has no {begin}"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("no <!-- end --> after {begin}"));
    format!("{before}{begin}\n{content}\n<!-- end -->{after}")
}

/// Compares a file with what it must hold, or writes it where `UPDATE_DOCS` is set.
fn keep(file: &str, content: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, content).unwrap();
    }
    let is_current = std::fs::read_to_string(&path).is_ok_and(|found| found == content);
    let remedy = "UPDATE_DOCS=1 cargo test --lib reference";
    assert!(is_current, "docs/{file} does not match the doc comments of the result's fields; run: {remedy}");
}

#[test]
fn the_reference_says_what_the_doc_comments_say() {
    let [schema, fleet] = [schemars::schema_for!(RunResult), schemars::schema_for!(Fleet)].map(Value::from);
    let documents = [rich_parts()[0].result.clone(), merged(rich_parts())];
    let documents = documents.map(|document| serde_json::to_string(&document).unwrap());
    let mut reference = Reference::new(&schema, &documents);
    let is_of_fleet = |name: &str| fleet["properties"].get(name).is_some();
    reference.list(&schema, "", &|name| !is_of_fleet(name));
    let fields = reference.take_table();
    reference.list(&schema, "", &is_of_fleet);
    let fields_of_several = reference.take_table();

    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).unwrap();
    let page = between_marks(&page, "JSON fields", &fields);
    keep("json.md", &between_marks(&page, "JSON fields of several VMs", &fields_of_several));
    keep("result.schema.json", &format!("{}\n", serde_json::to_string_pretty(&schema).unwrap()));
}
