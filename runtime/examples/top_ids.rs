//! Opens a model, runs a prompt and reads the most likely next ids:
//!
//! ```text
//! cargo run --release -p olmo-infer --example top_ids -- model.olmo 28070 5573 323 8254
//! ```

use olmo_infer::model_file::ModelFile;
use olmo_infer::network::{Network, Options};
use olmo_infer::single::Single;
use olmo_infer::threads::with_team;
use olmo_infer::top_k::top_k;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: top_ids MODEL.olmo ID...")?;
    let prompt = arguments.map(|id| id.parse()).collect::<Result<Vec<u32>, _>>()?;

    let file = ModelFile::open(path.as_ref())?;
    let network = Network::new(&file);
    let threads = std::thread::available_parallelism()?.get();
    let top = with_team(threads, |team| {
        let mut single = Single::new(&network, Options::new(prompt.len()))?;
        for chunk in prompt.chunks(single.options().chunk) {
            single.forward(team, chunk)?;
        }
        let last = (prompt.len() - 1) % single.options().chunk;
        let logits = single.logits(team, last..last + 1)?;
        Ok::<_, olmo_infer::error::Error>(top_k(logits, 5))
    })?;
    for (id, logit) in top {
        println!("{id} {logit}");
    }
    Ok(())
}
