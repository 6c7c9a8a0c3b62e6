// The expansion of:
//
// #[subscriber(subject = "images.uploaded", queue = "thumbnails", threads = 4)]
// fn thumbnail(image: Image, State(sizes): State<Sizes>) -> HandlerResult {
//     image.resize(&sizes)
// }

fn thumbnail(image: Image, State(sizes): State<Sizes>) -> HandlerResult {
    image.resize(&sizes)
}
/// Names the handler `thumbnail` for `Broker::include`.
struct thumbnail {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "thumbnail"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            threads: ::core::option::Option::Some(4),
            ..::jetstream_handlers::__private::Plan::new("images.uploaded", "thumbnails")
        },
        call: |slot, delivery, context| {
            let (message, context) = (
                ::core::clone::Clone::clone(delivery.single()),
                ::core::clone::Clone::clone(context),
            );
            slot.run(async move {
                let argument0 = match ::jetstream_handlers::__private::extract::<
                    Image,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<Image>::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                let argument1 = match ::jetstream_handlers::__private::extract::<
                    State<Sizes>,
                    _,
                >(
                    &message,
                    &context,
                    (&&&&::jetstream_handlers::__private::Parameter::<State<Sizes>>::NEW)
                        .__jetstream_handlers_via(),
                ) {
                    ::core::result::Result::Ok(argument) => argument,
                    ::core::result::Result::Err(rejection) => {
                        return ::jetstream_handlers::__private::rejected(rejection);
                    }
                };
                ::jetstream_handlers::__private::outcome::<
                    HandlerResult,
                >(thumbnail(argument0, argument1))
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                Image,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<Image>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, Image);
            let body = ::jetstream_handlers::__private::check::<
                State<Sizes>,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<State<Sizes>>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, State < Sizes >);
            let _ = body;
            ::jetstream_handlers::__private::declare::<HandlerResult>(problems);
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for thumbnail {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
