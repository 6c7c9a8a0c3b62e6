// What the attribute makes of:
//
// #[subscriber(subject = "ticks", queue = "ticker", backoff = ["1s", "5s"], dead_letter = false)]
// pub async fn r#loop() {}

pub async fn r#loop() {}
/// Names the handler `loop` for `Broker::include`.
pub struct r#loop {}
#[allow(deprecated)]
const _: () = {
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "loop"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        plan: ::jetstream_handlers::__private::StaticPlan {
            subject: "ticks",
            queue: "ticker",
            stream: ::core::option::Option::None,
            concurrency: ::core::option::Option::None,
            blocking: false,
            threads: ::core::option::Option::None,
            batch_size: ::core::option::Option::None,
            ack_wait: ::core::option::Option::None,
            timeout: ::core::option::Option::None,
            max_deliver: ::core::option::Option::None,
            backoff: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Backoff::Steps(
                    ::jetstream_handlers::__private::Cow::Borrowed(
                        &[
                            ::core::time::Duration::from_millis(1000u64),
                            ::core::time::Duration::from_millis(5000u64),
                        ],
                    ),
                ),
            ),
            dead_letter: ::core::option::Option::Some(
                ::jetstream_handlers::__private::DeadLetter::Off,
            ),
            key: ::core::option::Option::None,
            ordered: false,
            ack_every: ::core::option::Option::None,
            replicas: ::core::option::Option::None,
            publish: ::core::option::Option::None,
            codec: ::core::option::Option::None,
            ack: ::jetstream_handlers::__private::Ack::Sent,
            group: ::core::option::Option::None,
        },
        call: |slot, message, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(message),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                ::jetstream_handlers::__private::outcome::<()>(r#loop().await)
            });
        },
        check: |context, problems| {},
    };
    impl ::jetstream_handlers::__private::Subscriber for r#loop {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
