// The expansion of:
//
// #[subscriber(
//     subject = "meters.read",
//     queue = "meters",
//     batch = 100,
//     batch_wait = "500ms",
//     batch_bytes = 1_000_000,
//     on_batch_error = "split",
//     publish = "meters.stored",
// )]
// async fn store(readings: Batch<Reading>, State(db): State<Db>) -> HandlerResult<Vec<Stored>> {
//     db.store(&readings).await
// }

async fn store(
    readings: Batch<Reading>,
    State(db): State<Db>,
) -> HandlerResult<Vec<Stored>> {
    db.store(&readings).await
}
/// Names the handler `store` for `Broker::include`.
struct store {}
#[allow(deprecated)]
const _: () = {
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::via::{
        First as _, FirstOfBytes as _, Second as _, Third as _,
    };
    #[allow(unused_imports)]
    use ::jetstream_handlers::__private::returned::{
        PublishesNothing as _, PublishesOutputs as _, PublishesResult as _,
        PublishesValue as _, PublishesValues as _,
    };
    static __JETSTREAM_HANDLERS_REGISTRATION: ::jetstream_handlers::__private::Registration = ::jetstream_handlers::__private::Registration {
        name: ::core::concat!(::core::module_path!(), "::", "store"),
        location: ::core::concat!(::core::file!(), ":", ::core::line!()),
        description: "",
        plan: || ::jetstream_handlers::__private::Plan {
            batch: ::core::option::Option::Some(100),
            batch_wait: ::core::option::Option::Some(
                ::core::time::Duration::from_millis(500u64),
            ),
            batch_bytes: ::core::option::Option::Some(1000000),
            on_batch_error: ::jetstream_handlers::__private::OnBatchError::Split,
            publish: ::core::option::Option::Some(
                ::jetstream_handlers::__private::Cow::Borrowed("meters.stored"),
            ),
            ..::jetstream_handlers::__private::Plan::new("meters.read", "meters")
        },
        call: |slot, delivery, context| {
            let argument0 = match ::jetstream_handlers::__private::extract_from::<
                Batch<Reading>,
                _,
            >(
                delivery,
                context,
                (&&&&::jetstream_handlers::__private::Parameter::<Batch<Reading>>::NEW)
                    .__jetstream_handlers_via(),
            ) {
                ::core::result::Result::Ok(argument) => argument,
                ::core::result::Result::Err(rejection) => {
                    return slot
                        .run(async move {
                            ::jetstream_handlers::__private::rejected(rejection)
                        });
                }
            };
            let argument1 = match ::jetstream_handlers::__private::extract_from::<
                State<Db>,
                _,
            >(
                delivery,
                context,
                (&&&&::jetstream_handlers::__private::Parameter::<State<Db>>::NEW)
                    .__jetstream_handlers_via(),
            ) {
                ::core::result::Result::Ok(argument) => argument,
                ::core::result::Result::Err(rejection) => {
                    return slot
                        .run(async move {
                            ::jetstream_handlers::__private::rejected(rejection)
                        });
                }
            };
            let elements = delivery.elements();
            slot.run(async move {
                let returned = store(argument0, argument1).await;
                let via = (&&&&&::jetstream_handlers::__private::Returned::of_element(
                    &returned,
                ))
                    .__jetstream_handlers_published();
                ::jetstream_handlers::__private::published_elements::<
                    HandlerResult<Vec<Stored>>,
                    _,
                >(returned, via, &elements)
            });
        },
        check: |context, problems| {
            let body = ::jetstream_handlers::__private::Body::UNREAD;
            let body = ::jetstream_handlers::__private::check::<
                Batch<Reading>,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<Batch<Reading>>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, Batch < Reading >);
            let body = ::jetstream_handlers::__private::check::<
                State<Db>,
                _,
                _,
            >(
                context,
                problems,
                (&&&&::jetstream_handlers::__private::Parameter::<State<Db>>::NEW)
                    .__jetstream_handlers_via(),
                body,
            );
            ::jetstream_handlers::__received!(problems, State < Db >);
            let _ = body;
            ::jetstream_handlers::__private::declare_published::<
                <HandlerResult<
                    Vec<Stored>,
                > as ::jetstream_handlers::__private::IntoElements>::Element,
                _,
            >(
                problems,
                (&&&&&::jetstream_handlers::__private::Returned::<
                    <HandlerResult<
                        Vec<Stored>,
                    > as ::jetstream_handlers::__private::IntoElements>::Element,
                >::NEW)
                    .__jetstream_handlers_published(),
            );
            ::jetstream_handlers::__published!(
                problems; HandlerResult < Vec < Stored > >
            );
        },
        layer: ::core::option::Option::None,
    };
    impl ::jetstream_handlers::__private::Subscriber for store {
        fn registration() -> &'static ::jetstream_handlers::__private::Registration {
            &__JETSTREAM_HANDLERS_REGISTRATION
        }
    }
    ::jetstream_handlers::__private::inventory::submit! {
        ::jetstream_handlers::__private::Entry(& __JETSTREAM_HANDLERS_REGISTRATION)
    }
};
