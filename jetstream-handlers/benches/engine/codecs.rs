//! Payloads that are decoded and encoded, by this crate and by the crates of the formats alone.
//!
//! Encoded payloads are `Bytes`, which a publish needs.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use jetstream_handlers::__private::{Argument, DefaultCodec, Message};
use jetstream_handlers::{Cbor, Context, Json, MessagePack, Payload, Protobuf};
use prost::Message as _;

use crate::measure::{Figure, Sample, cpu};
use crate::order::Order;
use crate::table::Claim;
use crate::table::Target::AtMost;
use crate::{Group, Variant};

const OURS: &str = "ours";
/// The same format, as the type of the parameter names it.
const NAMED: &str = "ours, Json<T>";
/// Text in UTF-8 that is decoded with `serde_json::from_str`.
const FROM_STR: &str = "serde_json, from_str";
const FROM_SLICE: &str = "serde_json, from_slice";
const TO_VEC: &str = "serde_json";
const RMP: &str = "rmp-serde";
const CBOR: &str = "serde_cbor_2";
const PROST: &str = "prost";

pub(crate) fn groups() -> Vec<Group> {
    let order = Order::new(7);
    let message_pack = rmp_serde::to_vec_named(&order).expect("an order is MessagePack");
    let cbor = serde_cbor_2::to_vec(&order).expect("an order is CBOR");
    let protobuf = ProtobufOrder::from(&order);
    vec![
        group(
            "decode json",
            FROM_STR,
            vec![
                decode::<Order, _>(OURS, order.json()),
                decode::<Json<Order>, _>(NAMED, order.json()),
                plain(FROM_STR, order.json(), |payload| {
                    let text = std::str::from_utf8(payload).expect("it is UTF-8");
                    serde_json::from_str::<Order>(text)
                }),
                plain(FROM_SLICE, order.json(), |payload| serde_json::from_slice::<Order>(payload)),
            ],
        ),
        group(
            "encode json",
            TO_VEC,
            vec![
                encode(OURS, order.clone()),
                plain(TO_VEC, order.clone(), |order| serde_json::to_vec(order).map(Bytes::from)),
            ],
        ),
        group(
            "decode messagepack",
            RMP,
            vec![
                decode::<MessagePack<Order>, _>(OURS, message_pack.clone()),
                plain(RMP, message_pack, |payload| rmp_serde::from_slice::<Order>(payload)),
            ],
        ),
        group(
            "encode messagepack",
            RMP,
            vec![
                encode(OURS, MessagePack(order.clone())),
                plain(RMP, order.clone(), |order| rmp_serde::to_vec_named(order).map(Bytes::from)),
            ],
        ),
        group(
            "decode cbor",
            CBOR,
            vec![
                decode::<Cbor<Order>, _>(OURS, cbor.clone()),
                plain(CBOR, cbor, |payload| serde_cbor_2::from_slice::<Order>(payload)),
            ],
        ),
        group(
            "encode cbor",
            CBOR,
            vec![
                encode(OURS, Cbor(order.clone())),
                plain(CBOR, order, |order| serde_cbor_2::to_vec(order).map(Bytes::from)),
            ],
        ),
        group(
            "decode protobuf",
            PROST,
            vec![
                decode::<Protobuf<ProtobufOrder>, _>(OURS, protobuf.encode_to_vec()),
                plain(PROST, Bytes::from(protobuf.encode_to_vec()), |payload| ProtobufOrder::decode(payload.clone())),
            ],
        ),
        group(
            "encode protobuf",
            PROST,
            vec![
                encode(OURS, Protobuf(protobuf.clone())),
                plain(PROST, protobuf, |order| Bytes::from(order.encode_to_vec())),
            ],
        ),
    ]
}

fn group(name: &'static str, plain: &'static str, variants: Vec<Variant>) -> Group {
    let claims = vec![Claim::ratio(Figure::ClientCpu, OURS, plain, AtMost(1.1))];
    Group { name, prepare: |_| {}, variants, claims }
}

/// A parameter of a handler, made from a message as before a call.
fn decode<T: for<'m> Argument<'m, Via>, Via>(name: &'static str, payload: impl Into<Bytes>) -> Variant {
    let (message, context) = (Message::new("CODECS.orders", payload), Context::for_test());
    plain(name, message, move |message| T::extract(message, &context).expect("it is an order"))
}

/// A value, encoded as before a publish.
fn encode<T: Payload + 'static>(name: &'static str, value: T) -> Variant {
    let default = DefaultCodec::default();
    plain(name, value, move |value| value.encode_payload(&default).expect("an order can be encoded"))
}

fn plain<T: 'static, U>(name: &'static str, input: T, work: impl Fn(&T) -> U + 'static) -> Variant {
    Variant::new(name, move |bench| repeat(bench.messages, || work(black_box(&input))))
}

fn repeat<T>(messages: u64, work: impl Fn() -> T) -> Sample {
    let (before, started) = (cpu(std::process::id()), Instant::now());
    for _ in 0..messages {
        black_box(work());
    }
    let took = started.elapsed();
    let cpu = cpu(std::process::id()) - before;
    Sample::from([
        (Figure::Rate, messages as f64 / took.as_secs_f64()),
        (Figure::ClientCpu, cpu.as_secs_f64() * 1e6 / messages as f64),
    ])
}

/// The order of the other formats.
#[derive(Clone, PartialEq, prost::Message)]
struct ProtobufOrder {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    customer: String,
    #[prost(string, tag = "3")]
    email: String,
    #[prost(string, tag = "4")]
    article: String,
    #[prost(uint32, tag = "5")]
    quantity: u32,
    #[prost(uint64, tag = "6")]
    cents: u64,
    #[prost(string, tag = "7")]
    currency: String,
    #[prost(string, tag = "8")]
    address: String,
    #[prost(uint64, tag = "9")]
    placed: u64,
}

impl From<&Order> for ProtobufOrder {
    fn from(order: &Order) -> Self {
        let Order { id, customer, email, article, quantity, cents, currency, address, placed } = order.clone();
        Self { id, customer, email, article, quantity, cents, currency, address, placed }
    }
}
