// The expansion of:
//
// #[subscriber(subject = "ticks", queue = "ticker", backoff = ["1s", "5s"], dead_letter = false)]
// pub async fn r#loop() {}

pub async fn r#loop() {}
/// Names the handler `loop` for `Broker::include`.
pub struct r#loop {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "loop"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            backoff: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Backoff::Steps(
                    ::jetstream_handlers::__private::Cow::Borrowed(const {
                        &[
                            ::core::time::Duration::from_millis(1000u64),
                            ::core::time::Duration::from_millis(5000u64),
                        ]
                    }),
                ),
            ),
            dead_letter: ::core::option::Option::Some(
                ::jetstream_handlers::__private::DeadLetter::Off,
            ),
            ..::jetstream_handlers::__private::Plan::new("ticks", "ticker")
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                ::jetstream_handlers::__private::outcome::<()>(r#loop().await)
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let _ = body;
        },
        layer: ::core::option::Option::None,
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
