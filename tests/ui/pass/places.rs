use jetstream_handlers::prelude::*;

mod deep {
    use jetstream_handlers::prelude::*;

    #[subscriber(subject = "places.deep", queue = "deep")]
    pub async fn handler(_: String) {}

    pub mod deeper {
        use jetstream_handlers::prelude::*;

        #[subscriber(subject = "places.deeper", queue = "deeper")]
        pub(super) async fn handler(_: String) {}
    }

    pub fn call_deeper() {
        drop(deeper::handler(String::new()));
    }
}

macro_rules! handler {
    ($name:ident, $subject:literal, $queue:expr, $payload:ty) => {
        #[subscriber(subject = $subject, queue = $queue)]
        async fn $name(payload: $payload) {
            let _: $payload = payload;
        }
    };
}

handler!(from_macro, "places.macro", "macro", Vec<u8>);

#[subscriber(subject = "places.conditional", queue = "conditional")]
#[cfg(any())]
async fn never(_: ThereIsNoSuchType) {}

#[cfg_attr(all(), subscriber(subject = "places.attribute", queue = "attribute"))]
async fn by_cfg_attr(_: String) {}

fn main() {
    #[subscriber(subject = "places.body", queue = "body")]
    async fn in_a_body(_: String) {}

    drop(in_a_body(String::new()));
    drop(deep::handler(String::new()));
    deep::call_deeper();
    drop(from_macro(Vec::new()));
    drop(by_cfg_attr(String::new()));
}
