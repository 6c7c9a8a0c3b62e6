//! The texts of YAML and HCL, each value quoted.

use serde_json::Value;

/// Returns a text between double quotes, in which both YAML and HCL read it; `escaped` adds their own escapes.
fn quoted(text: &str, escaped: impl Fn(&str) -> String) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            '\n' => quoted.push_str("\\n"),
            ' '..='~' => quoted.push(char),
            // Printable or not: some of the others end a line in YAML.
            _ if u32::from(char) <= 0xffff => quoted.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => quoted.push_str(&format!("\\U{:08x}", u32::from(char))),
        }
    }
    quoted.push('"');
    escaped(&quoted)
}

pub(super) fn yaml_text(text: &str) -> String {
    quoted(text, str::to_owned)
}

/// Returns a text for HCL, where `${` and `%{` begin a template.
pub(super) fn hcl_text(text: &str) -> String {
    quoted(text, |text| text.replace("${", "$${").replace("%{", "%%{"))
}

/// Writes a field of a YAML mapping at this depth.
pub(super) fn yaml_field(out: &mut String, depth: usize, name: &str, value: &Value) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            out.push_str(&format!("{indent}{name}:\n"));
            fields.iter().for_each(|(name, value)| yaml_field(out, depth + 1, &yaml_key(name), value));
        }
        Value::Array(values) => {
            out.push_str(&format!("{indent}{name}:\n"));
            values.iter().for_each(|value| yaml_item(out, depth + 1, value));
        }
        value => out.push_str(&format!("{indent}{name}: {}\n", yaml_scalar(value))),
    }
}

fn yaml_item(out: &mut String, depth: usize, value: &Value) {
    let indent = "  ".repeat(depth);
    let Value::Object(fields) = value else {
        return out.push_str(&format!("{indent}- {}\n", yaml_scalar(value)));
    };
    let mut item = String::new();
    fields.iter().for_each(|(name, value)| yaml_field(&mut item, depth + 1, &yaml_key(name), value));
    // The first field is on the line of the dash.
    out.push_str(&format!("{indent}- {}", item.trim_start()));
}

/// Returns the name of a field; that of an entry of metadata can be any text.
fn yaml_key(name: &str) -> String {
    let is_plain = name.starts_with(|char: char| char.is_ascii_alphabetic())
        && name.chars().all(|char| char.is_ascii_alphanumeric())
        && !["y", "n", "yes", "no", "on", "off", "true", "false", "null"].contains(&&*name.to_lowercase());
    if is_plain { name.to_owned() } else { yaml_text(name) }
}

fn yaml_scalar(value: &Value) -> String {
    match value {
        Value::String(text) => yaml_text(text),
        value => value.to_string(),
    }
}

/// Returns a value of HCL.
pub(super) fn hcl_value(value: &Value) -> String {
    match value {
        Value::String(text) => hcl_text(text),
        Value::Array(values) => format!("[{}]", values.iter().map(hcl_value).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let entry = |(name, value): (&String, &Value)| format!("{} = {}", hcl_text(name), hcl_value(value));
            format!("{{ {} }}", fields.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hostile_texts_stay_one_value() {
        let text = "a\"b\\c\nd: #e ${f} %{g} \u{85}\u{2028}\u{1f600}'";
        let common = "a\\\"b\\\\c\\nd: #e ";
        let rest = "\\u0085\\u2028\\U0001f600'\"";
        assert_eq!(yaml_text(text), format!("\"{common}${{f}} %{{g}} {rest}"));
        assert_eq!(hcl_text(text), format!("\"{common}$${{f}} %%{{g}} {rest}"));
        assert_eq!(hcl_value(&json!({ "a\"b": ["${c}", 7, true] })), "{ \"a\\\"b\" = [\"$${c}\", 7, true] }");
    }

    #[test]
    fn yaml_has_one_level_for_each_depth() {
        let mut out = String::new();
        let value = json!({ "no": [{ "name": "a", "tags": ["x: y"] }], "- key": { "n": 1 } });
        yaml_field(&mut out, 1, "spec", &value);
        let lines = [
            "  spec:",
            "    \"- key\":",
            "      \"n\": 1",
            "    \"no\":",
            "      - name: \"a\"",
            "        tags:",
            "          - \"x: y\"",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }
}
