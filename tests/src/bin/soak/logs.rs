//! The logs of a seed that failed.

use std::fs;

use crate::field::Field;

/// Writes the logs of the workers and of the nodes, and the acknowledgements, to a folder, which it prints.
pub(crate) fn keep(field: &mut Field, seed: u64) {
    let folder = std::env::temp_dir().join(format!("soak-{seed}"));
    let mut files = vec![("acks.log".to_owned(), field.acks.log())];
    for (index, output) in field.workers.outputs().into_iter().enumerate() {
        files.push((format!("worker-{index}.log"), output));
    }
    for node in 0..3 {
        files.push((format!("node-{}.log", node + 1), field.cluster.node(node).log()));
    }
    let written = fs::create_dir_all(&folder)
        .and_then(|()| files.into_iter().try_for_each(|(name, text)| fs::write(folder.join(name), text)));
    match written {
        Ok(()) => println!("logs: {}", folder.display()),
        Err(error) => println!("the logs cannot be written to {}: {error}", folder.display()),
    }
}
