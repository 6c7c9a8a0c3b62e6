//! The comparison of schemas, in the direction of their message.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::components::Direction;
use super::alternatives::{ANY, Alternative, Kind, alternatives, type_of};
use super::{Document, Severity};

/// The depth to which schemas are compared.
const MAX_DEPTH: usize = 128;

/// The number of pairs of schemas that are compared for one message.
const MAX_PAIRS: usize = 16_384;

/// The comparison of the schemas of one message.
pub(super) struct Comparison<'a> {
    theirs: Document<'a>,
    ours: Document<'a>,
    direction: Direction,
    /// The pairs of schemas that were compared, by their addresses, because schemas may contain themselves.
    compared: BTreeSet<(*const Value, *const Value)>,
    depth: usize,
    pub(super) found: Vec<(Severity, String)>,
}

/// A change of the values that a schema has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// There are fewer values.
    Narrowed,
    /// There are more values.
    Widened,
}

/// The presence of a field in the values that a schema has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(theirs: Document<'a>, ours: Document<'a>, direction: Direction) -> Self {
        Self { theirs, ours, direction, compared: BTreeSet::new(), depth: 0, found: Vec::new() }
    }

    /// Compares the schemas of the value at a path.
    pub(super) fn compare(&mut self, theirs: &'a Value, ours: &'a Value, path: &str) {
        let pair = (self.theirs.resolve(theirs), self.ours.resolve(ours));
        if !self.compared.insert((std::ptr::from_ref(pair.0), std::ptr::from_ref(pair.1))) {
            return;
        }
        if self.depth == MAX_DEPTH || self.compared.len() == MAX_PAIRS {
            self.add(Severity::Dangerous, format!("`{path}` was not compared, because the schema is too large"));
        }
        if self.depth >= MAX_DEPTH || self.compared.len() >= MAX_PAIRS {
            return;
        }
        self.depth += 1;
        let (earlier, present) = (alternatives(self.theirs, theirs), alternatives(self.ours, ours));
        self.compare_alternatives(&earlier, &present, path);
        self.depth -= 1;
    }

    fn add(&mut self, severity: Severity, text: String) {
        self.found.push((severity, text));
    }

    /// Adds a change whose severity depends on the direction.
    fn judge(&mut self, effect: Effect, text: String) {
        let severity = match (self.direction, effect) {
            (Direction::Receive, Effect::Narrowed) | (Direction::Send, Effect::Widened) => Severity::Breaking,
            _ => Severity::Info,
        };
        self.add(severity, text);
    }

    fn compare_alternatives(&mut self, earlier: &[Alternative<'a>], present: &[Alternative<'a>], path: &str) {
        let is_object = |alternative: &&Alternative<'_>| alternative.kind == Kind::Type("object");
        let objects = [earlier, present].map(|all| all.iter().filter(is_object).count());
        let several = objects.iter().any(|count| *count > 1);
        let object = |document| {
            move |one: &Alternative<'a>| {
                if several { format!("object {}", one.tag(document)) } else { "object".to_owned() }
            }
        };
        let (earlier_keys, present_keys) = (keys(earlier, object(self.theirs)), keys(present, object(self.ours)));
        let (earlier_kinds, present_kinds) = (Kinds::of(earlier), Kinds::of(present));
        for (key, one) in &earlier_keys {
            match present_keys.get(key) {
                Some(other) => self.compare_matched(one, other, path),
                None if !present_kinds.accept(one) => {
                    let verb = if self.direction == Direction::Send { "is never" } else { "may not be" };
                    self.judge(Effect::Narrowed, format!("`{path}` {verb} {} any more", one.shown(self.theirs)));
                }
                None => {}
            }
        }
        for (key, other) in &present_keys {
            if !earlier_keys.contains_key(key) && !earlier_kinds.accept(other) {
                self.judge(Effect::Widened, format!("`{path}` may be {}, which is new", other.shown(self.ours)));
            }
        }
    }

    /// Compares alternatives of the same type.
    fn compare_matched(&mut self, theirs: &Alternative<'a>, ours: &Alternative<'a>, path: &str) {
        match theirs.kind {
            Kind::Constant(_) => {}
            Kind::Type("object") => self.compare_objects(theirs, ours, path),
            Kind::Type("array") => self.compare_arrays(theirs, ours, path),
            Kind::Type("integer" | "number") => self.compare_numbers(theirs, ours, path),
            Kind::Type(_) | Kind::Any => {
                for keyword in ["format", "pattern"] {
                    self.compare_restriction(keyword, theirs, ours, path);
                }
                self.compare_bounds("minLength", "maxLength", theirs, ours, path);
            }
        }
    }

    fn compare_objects(&mut self, theirs: &Alternative<'a>, ours: &Alternative<'a>, path: &str) {
        let (earlier, present) = (theirs.properties(), ours.properties());
        let (earlier_required, present_required) = (theirs.required(), ours.required());
        let all: BTreeSet<_> =
            earlier.keys().chain(present.keys()).chain(&earlier_required).chain(&present_required).copied().collect();
        for name in all {
            let path = format!("{path}.{name}");
            let is_required = (earlier_required.contains(&name), present_required.contains(&name));
            let is_known = |properties: bool, required| properties || required;
            let was = is_known(earlier.contains_key(name), is_required.0);
            let is = is_known(present.contains_key(name), is_required.1);
            match (was, is) {
                (true, true) => {
                    self.compare_required(is_required, &path);
                    if let (Some(one), Some(other)) = (earlier.get(name), present.get(name)) {
                        self.compare(one, other, &path);
                    }
                }
                (false, true) => {
                    let presence = if is_required.1 { Presence::Required } else { Presence::Optional };
                    self.added_field(presence, theirs.additional(), &path);
                }
                (true, false) => self.removed_field(ours.additional(), &path),
                (false, false) => {}
            }
        }
        self.compare_additional(theirs.additional(), ours.additional(), path);
        self.compare_bounds("minProperties", "maxProperties", theirs, ours, path);
    }

    fn compare_required(&mut self, is_required: (bool, bool), path: &str) {
        match (self.direction, is_required) {
            (_, (true, true) | (false, false)) => {}
            (Direction::Receive, (false, true)) => {
                self.add(Severity::Breaking, format!("`{path}` is required, and earlier messages may lack it"));
            }
            (Direction::Send, (true, false)) => {
                self.add(Severity::Breaking, format!("`{path}` may be absent, and consumers may require it"));
            }
            (Direction::Receive, (true, false)) => self.add(Severity::Info, format!("`{path}` may be absent")),
            (Direction::Send, (false, true)) => self.add(Severity::Info, format!("`{path}` is always present")),
        }
    }

    fn added_field(&mut self, presence: Presence, earlier_additional: &Value, path: &str) {
        let no_others = *earlier_additional == Value::Bool(false);
        match (self.direction, presence) {
            (Direction::Receive, Presence::Required) => {
                self.add(Severity::Breaking, format!("`{path}` is new and required, and earlier messages lack it"));
            }
            (Direction::Send, _) if no_others => {
                let text = format!("`{path}` is new, and the earlier schema allows no other fields");
                self.add(Severity::Breaking, text);
            }
            _ => self.add(Severity::Info, format!("`{path}` is new")),
        }
    }

    fn removed_field(&mut self, present_additional: &Value, path: &str) {
        match self.direction {
            Direction::Send => {
                self.add(Severity::Breaking, format!("`{path}` was removed, and consumers may use it"));
            }
            Direction::Receive if *present_additional == Value::Bool(false) => {
                let text = format!("`{path}` was removed, and messages that have it are refused");
                self.add(Severity::Breaking, text);
            }
            Direction::Receive => self.add(Severity::Info, format!("`{path}` was removed, and is ignored")),
        }
    }

    fn compare_additional(&mut self, theirs: &'a Value, ours: &'a Value, path: &str) {
        match (theirs, ours) {
            (Value::Bool(false), Value::Bool(false)) => {}
            (_, Value::Bool(false)) => self.judge(Effect::Narrowed, format!("`{path}` may have no other fields")),
            (Value::Bool(false), _) => self.judge(Effect::Widened, format!("`{path}` may have other fields")),
            (one, other) if is_any(one) && is_any(other) => {}
            (one, other) => self.compare(one, other, &format!("{path}.*")),
        }
    }

    fn compare_arrays(&mut self, theirs: &Alternative<'a>, ours: &Alternative<'a>, path: &str) {
        let items = |alternative: &Alternative<'a>| alternative.keyword("items").unwrap_or(ANY);
        let element = format!("{path}[]");
        match (items(theirs), items(ours)) {
            (Value::Array(earlier), Value::Array(present)) => {
                for (index, (one, other)) in earlier.iter().zip(present).enumerate() {
                    self.compare(one, other, &format!("{path}[{index}]"));
                }
            }
            (Value::Array(earlier), other) => {
                earlier.iter().for_each(|one| self.compare(one, other, &element));
            }
            (one, Value::Array(present)) => {
                present.iter().for_each(|other| self.compare(one, other, &element));
            }
            (one, other) => self.compare(one, other, &element),
        }
        self.compare_bounds("minItems", "maxItems", theirs, ours, path);
        let is_unique = |alternative: &Alternative<'_>| alternative.keyword("uniqueItems") == Some(&Value::Bool(true));
        match (is_unique(theirs), is_unique(ours)) {
            (false, true) => self.judge(Effect::Narrowed, format!("`{path}` has no equal elements")),
            (true, false) => self.judge(Effect::Widened, format!("`{path}` may have equal elements")),
            _ => {}
        }
    }

    fn compare_numbers(&mut self, theirs: &Alternative<'a>, ours: &Alternative<'a>, path: &str) {
        let (earlier, present) = (Range::of(theirs), Range::of(ours));
        let (low, high) = (present.low > earlier.low, present.high < earlier.high);
        if low || high {
            self.judge(Effect::Narrowed, format!("`{path}` is {present}, it was {earlier}"));
        }
        if present.low < earlier.low || present.high > earlier.high {
            self.judge(Effect::Widened, format!("`{path}` is {present}, it was {earlier}"));
        }
    }

    /// Compares a keyword whose values cannot be ordered.
    fn compare_restriction(&mut self, keyword: &str, theirs: &Alternative<'a>, ours: &Alternative<'a>, path: &str) {
        match (theirs.keyword(keyword), ours.keyword(keyword)) {
            (None, Some(present)) => {
                self.judge(Effect::Narrowed, format!("`{path}` has the `{keyword}` {present}, it had none"));
            }
            (Some(earlier), None) => {
                self.judge(Effect::Widened, format!("`{path}` has no `{keyword}`, it had {earlier}"));
            }
            (Some(earlier), Some(present)) if earlier != present => {
                let text = format!("`{path}` has the `{keyword}` {present}, it had {earlier}");
                self.add(Severity::Breaking, text);
            }
            _ => {}
        }
    }

    /// Compares a lower and an upper limit.
    fn compare_bounds(&mut self, low: &str, high: &str, theirs: &Alternative<'a>, ours: &Alternative<'a>, path: &str) {
        for (keyword, is_low) in [(low, true), (high, false)] {
            let limit = |alternative: &Alternative<'_>| {
                let none = if is_low { 0.0 } else { f64::INFINITY };
                alternative.keyword(keyword).and_then(Value::as_f64).unwrap_or(none)
            };
            let (earlier, present) = (limit(theirs), limit(ours));
            if earlier != present {
                let effect = if (present > earlier) == is_low { Effect::Narrowed } else { Effect::Widened };
                self.judge(effect, format!("`{path}` has the `{keyword}` {present}, it had {earlier}"));
            }
        }
    }
}

fn is_any(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(serde_json::Map::is_empty)
}

/// Returns the alternatives of a schema by what tells them apart, which is the same in an earlier schema; `object` tells
/// objects apart.
fn keys<'s, 'a>(
    all: &'s [Alternative<'a>],
    object: impl Fn(&Alternative<'a>) -> String,
) -> BTreeMap<(String, usize), &'s Alternative<'a>> {
    let mut equal: BTreeMap<String, usize> = BTreeMap::new();
    let keys = all.iter().map(|alternative| {
        let key = match alternative.kind {
            Kind::Any => "any".to_owned(),
            Kind::Constant(value) => format!("={value}"),
            Kind::Type("object") => object(alternative),
            Kind::Type(name) => name.to_owned(),
        };
        // Those that nothing tells apart are matched by their order.
        let count = equal.entry(key.clone()).or_default();
        *count += 1;
        ((key, *count), alternative)
    });
    keys.collect()
}

/// The kinds of values that a schema has.
struct Kinds<'a> {
    has_any: bool,
    types: BTreeSet<&'a str>,
}

impl<'a> Kinds<'a> {
    fn of(all: &[Alternative<'a>]) -> Self {
        let types = all.iter().filter_map(|it| if let Kind::Type(name) = it.kind { Some(name) } else { None });
        Self { has_any: all.iter().any(|it| it.kind == Kind::Any), types: types.collect() }
    }

    /// Returns `true` if an alternative of another kind has all values of this one.
    fn accept(&self, one: &Alternative<'_>) -> bool {
        let is_integer = |name| name == "integer" && self.types.contains("number");
        self.has_any
            || match one.kind {
                Kind::Any => false,
                Kind::Type(name) => is_integer(name),
                Kind::Constant(value) => self.types.contains(type_of(value)) || is_integer(type_of(value)),
            }
    }
}

/// The numbers from one to another.
#[derive(Debug, Clone, Copy)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn of(alternative: &Alternative<'_>) -> Self {
        let limit = |keyword: &str| alternative.keyword(keyword).and_then(Value::as_f64);
        let (low, high) = alternative.keyword("format").and_then(Value::as_str).and_then(of_format).unzip();
        let lows = [limit("minimum"), limit("exclusiveMinimum"), low];
        let highs = [limit("maximum"), limit("exclusiveMaximum"), high];
        Self {
            low: lows.into_iter().flatten().fold(f64::NEG_INFINITY, f64::max),
            high: highs.into_iter().flatten().fold(f64::INFINITY, f64::min),
        }
    }
}

/// Returns the numbers of a format of integers.
fn of_format(format: &str) -> Option<(f64, f64)> {
    let (is_signed, bits) = match (format.strip_prefix("int"), format.strip_prefix("uint")) {
        (Some(bits), _) => (true, bits),
        (_, Some(bits)) => (false, bits),
        _ => return None,
    };
    // `int` and `uint` are the sizes of the present machines.
    let bits: i32 = if bits.is_empty() { 64 } else { bits.parse().ok().filter(|bits| (1..=128).contains(bits))? };
    Some(if is_signed { (-(2f64.powi(bits - 1)), 2f64.powi(bits - 1) - 1.0) } else { (0.0, 2f64.powi(bits) - 1.0) })
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.low.is_finite(), self.high.is_finite()) {
            (true, true) => write!(f, "from {} to {}", self.low, self.high),
            (true, false) => write!(f, "at least {}", self.low),
            (false, true) => write!(f, "at most {}", self.high),
            (false, false) => f.write_str("any number"),
        }
    }
}
