//! The derive macro of events.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{ToTokens, quote_spanned};
use syn::ext::IdentExt as _;
use syn::parse::Parser as _;
use syn::spanned::Spanned as _;
use syn::{Attribute, Data, DataEnum, DeriveInput, Fields, Lit, LitInt, LitStr, Path, Type, Variant, parse2};

use crate::errors::Errors;
use crate::pattern::placeholders;
use crate::rules::{self, PARTITION};
use crate::spelling;

/// Expands `#[derive(Event)]`.
pub(crate) fn derive(input: TokenStream) -> TokenStream {
    let input = match parse2::<DeriveInput>(input) {
        Ok(input) => input,
        Err(error) => return error.into_compile_error(),
    };
    let mut errors = Errors::default();
    let settings = Settings::read(&input.attrs, &mut errors);
    let expanded = match &input.data {
        Data::Struct(data) => of_struct(&input, &settings, &data.fields, &mut errors),
        Data::Enum(data) => of_enum(&input, &settings, data, &mut errors),
        Data::Union(_) => {
            errors.push_spanned(&input.ident, "an event is a struct or an enum");
            None
        }
    };
    if errors.is_empty() { expanded.unwrap_or_default() } else { errors.into_compile_errors() }
}

/// The settings of an event or of a variant: the keys of `#[event(..)]`.
#[derive(Default)]
struct Settings {
    subject: Option<LitStr>,
    id: Option<LitStr>,
    version: Option<LitInt>,
    /// The type of the codec.
    codec: Option<Path>,
    /// The header by which the variants of an enum are told apart.
    header: Option<LitStr>,
    /// The value of the header for a variant.
    name: Option<LitStr>,
    /// The field whose hash is the partition.
    key: Option<LitStr>,
    /// The number of partitions.
    partitions: Option<LitInt>,
    /// The place at which a missing key is reported.
    span: Option<Span>,
}

impl Settings {
    fn read(attributes: &[Attribute], errors: &mut Errors) -> Self {
        let mut settings = Self::default();
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("event")) {
            settings.span = Some(attribute.span());
            let parsed = attribute.parse_nested_meta(|meta| {
                let Some(key) = meta.path.get_ident().map(Ident::to_string) else {
                    return Err(meta.error("expected a key, as in `subject = \"orders.created\"`"));
                };
                match &*key {
                    "subject" => once(&mut settings.subject, &meta),
                    "id" => once(&mut settings.id, &meta),
                    "version" => once(&mut settings.version, &meta),
                    "codec" => codec(&mut settings.codec, &meta),
                    "header" => once(&mut settings.header, &meta),
                    "name" => once(&mut settings.name, &meta),
                    "key" => once(&mut settings.key, &meta),
                    "partitions" => once(&mut settings.partitions, &meta),
                    _ => Err(meta.error(format!(
                        "unknown key `{key}`; the keys of an event are `subject`, `id`, `version`, `codec`, `header`, `name`, `key` and `partitions`"
                    ))),
                }
            });
            if let Err(error) = parsed {
                errors.push(error.span(), &error);
            }
        }
        if let Some(subject) = &settings.subject {
            let value = subject.value();
            let problem = spelling::subject_problem(&value).or_else(|| {
                let wildcard = value.split('.').find(|token| matches!(*token, "*" | ">"))?;
                let instead = if wildcard == ">" { "{rest..}" } else { "{region}" };
                Some(format!(
                    "subject `{value}` has the wildcard `{wildcard}`, but an event has one subject; write a placeholder for a field, as in `{instead}`"
                ))
            });
            if let Some(problem) = problem {
                errors.push(subject.span(), problem);
            }
        }
        settings
    }

    /// Reports keys that have no meaning where they are.
    fn refuse(&self, keys: &[&str], place: &str, errors: &mut Errors) {
        let set: [(&str, Option<Span>); 8] = [
            ("subject", self.subject.as_ref().map(LitStr::span)),
            ("id", self.id.as_ref().map(LitStr::span)),
            ("version", self.version.as_ref().map(LitInt::span)),
            ("codec", self.codec.as_ref().map(Path::span)),
            ("header", self.header.as_ref().map(LitStr::span)),
            ("name", self.name.as_ref().map(LitStr::span)),
            ("key", self.key.as_ref().map(LitStr::span)),
            ("partitions", self.partitions.as_ref().map(LitInt::span)),
        ];
        for (key, span) in set {
            if let Some(span) = span.filter(|_| keys.contains(&key)) {
                errors.push(span, format!("`{key}` has no effect on {place}; remove it"));
            }
        }
    }

    /// Reports partitions that cannot be computed or have no place in the subject.
    fn check_partitions(&self, subject: &LitStr, errors: &mut Errors) {
        let Some(partitions) = &self.partitions else {
            if let Some(key) = &self.key {
                errors
                    .push(key.span(), "`key` has no effect without `partitions`; add `partitions = 12`, or remove it");
            }
            return;
        };
        match partitions.base10_parse().map(rules::partitions_problem) {
            Ok(None) => {}
            Ok(Some(problem)) => errors.push(partitions.span(), problem),
            Err(error) => errors.push(partitions.span(), error),
        }
        if self.key.is_none() {
            errors.push(
                partitions.span(),
                "`partitions` needs the field by which an event belongs to one of them; add `key = \"customer\"`",
            );
        }
        let text = subject.value();
        if placeholders(&text).all(|placeholder| placeholder.name != PARTITION) {
            errors.push(
                subject.span(),
                format!(
                    "subject `{text}` has no place for the partition; add it, as in `orders.{{{PARTITION}}}.created`"
                ),
            );
        }
    }

    fn place(&self) -> Span {
        self.span.unwrap_or_else(Span::call_site)
    }
}

fn once<T: syn::parse::Parse>(slot: &mut Option<T>, meta: &syn::meta::ParseNestedMeta<'_>) -> syn::Result<()> {
    let value = meta.value()?.parse()?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(meta.error("the key is given twice; remove one of them")),
    }
}

/// Reads the type of a codec, which is no text.
fn codec(slot: &mut Option<Path>, meta: &syn::meta::ParseNestedMeta<'_>) -> syn::Result<()> {
    let value = meta.value()?;
    if value.peek(Lit) {
        let text: Lit = value.parse()?;
        let expected = "`codec` takes the type of a codec, as in `codec = MessagePackCodec`";
        return Err(syn::Error::new(text.span(), expected));
    }
    match slot.replace(value.parse()?) {
        None => Ok(()),
        Some(_) => Err(meta.error("the key is given twice; remove one of them")),
    }
}

/// Returns the expression of a codec.
fn codec_value(codec: &Path) -> TokenStream {
    let here = Span::mixed_site().located_at(codec.span());
    quote_spanned!(here=> ::jetstream_handlers::__private::event_codec::<#codec>())
}

/// Access to the fields of an event by their names: an expression, or an error text.
type Access<'a> = dyn Fn(&str) -> Result<TokenStream, String> + 'a;

/// Returns the implementation for a struct, whose fields fill the placeholders.
fn of_struct(input: &DeriveInput, settings: &Settings, fields: &Fields, errors: &mut Errors) -> Option<TokenStream> {
    settings.refuse(&["header", "name"], "a struct, which has no variants", errors);
    let name = &input.ident;
    let Some(subject) = &settings.subject else {
        errors.push(
            settings.place(),
            format!("event `{name}` has no subject; add `#[event(subject = \"orders.created\")]`"),
        );
        return None;
    };
    let named: Vec<&Ident> = fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    let access = |field: &str| {
        let Some(known) = named.iter().find(|known| known.unraw() == field) else {
            let names: Vec<String> = named.iter().map(|known| format!("`{}`", known.unraw())).collect();
            let names = if names.is_empty() {
                "no named fields".to_owned()
            } else {
                format!("the fields {}", names.join(", "))
            };
            return Err(format!("`{name}` has no field `{field}`; it has {names}"));
        };
        let mut field = (*known).clone();
        field.set_span(Span::mixed_site().located_at(known.span()));
        Ok(quote_spanned!(field.span()=> &self.#field))
    };
    let filled = filled(settings, subject, &access, errors)?;
    let id = message_id(settings.id.as_ref(), &access, errors)?;
    let messages = [message(subject, name, name, &none())];
    Some(implementation(input, &[subject.to_token_stream()], settings, &filled, &id, &TokenStream::new(), &messages))
}

/// Returns the description of a message of an event: its subject, the type of its payload, the type that has its format
/// and version, and the header that names the variant.
fn message(
    pattern: &impl ToTokens,
    payload: &impl ToTokens,
    event: &impl ToTokens,
    header: &TokenStream,
) -> TokenStream {
    quote_spanned! {Span::mixed_site()=>
        [
            #pattern,
            #payload,
            <#event as ::jetstream_handlers::Event>::type_codec(),
            <#event as ::jetstream_handlers::Event>::VERSION,
            #header
        ]
    }
}

/// Returns the expression of the subject of an event.
fn filled(settings: &Settings, subject: &LitStr, access: &Access<'_>, errors: &mut Errors) -> Option<TokenStream> {
    settings.check_partitions(subject, errors);
    let text = subject.value();
    let mut values = Vec::new();
    for placeholder in placeholders(&text) {
        let is_partition = placeholder.name == PARTITION;
        let (value, place, at) = match (&settings.key, &settings.partitions) {
            (Some(key), Some(partitions)) if is_partition => {
                let here = Span::mixed_site().located_at(key.span());
                let partition = |value| quote_spanned!(here=> &::jetstream_handlers::__private::event_partition(#value, #partitions));
                (access(&key.value()).map(partition), "key".to_owned(), key)
            }
            // One of them is missing, which is reported.
            (Some(_), None) | (None, Some(_)) if is_partition => return None,
            _ => (access(placeholder.name), format!("subject `{text}`"), subject),
        };
        match value {
            Ok(value) => values.push(value),
            Err(problem) => {
                errors.push(at.span(), format!("{place}: {problem}"));
                return None;
            }
        }
    }
    // A field that cannot be a token is reported at the subject.
    let here = Span::mixed_site().located_at(subject.span());
    Some(quote_spanned!(here=> ::jetstream_handlers::__private::event_subject(#subject, &[#(#values),*])))
}

/// Returns the expression of the message id of an event.
fn message_id(id: Option<&LitStr>, access: &Access<'_>, errors: &mut Errors) -> Option<TokenStream> {
    let Some(id) = id else { return Some(none()) };
    match access(&id.value()) {
        Ok(value) => {
            let here = Span::mixed_site().located_at(id.span());
            Some(quote_spanned! {here=>
                ::core::option::Option::Some(::jetstream_handlers::__private::ToString::to_string(#value))
            })
        }
        Err(problem) => {
            errors.push(id.span(), format!("id: {problem}"));
            None
        }
    }
}

fn none() -> TokenStream {
    quote_spanned!(Span::mixed_site()=> ::core::option::Option::None)
}

/// Returns the implementation of `Event` with `others` of its methods, and its entry in the link-time collection.
fn implementation(
    input: &DeriveInput,
    patterns: &[TokenStream],
    settings: &Settings,
    subject: &TokenStream,
    id: &TokenStream,
    others: &TokenStream,
    messages: &[TokenStream],
) -> TokenStream {
    let here = Span::mixed_site();
    let name = &input.ident;
    let (generics, arguments, clause) = input.generics.split_for_impl();
    let version = settings.version.as_ref().map(|version| {
        quote_spanned!(here=> const VERSION: ::core::option::Option<u32> = ::core::option::Option::Some(#version);)
    });
    let partitions = settings.partitions.as_ref().map(|partitions| {
        quote_spanned!(here=> const PARTITIONS: ::core::option::Option<u32> = ::core::option::Option::Some(#partitions);)
    });
    let codec = settings.codec.as_ref().map(|codec| {
        let codec = codec_value(codec);
        quote_spanned! {here=>
            fn type_codec() -> ::core::option::Option<::jetstream_handlers::__private::DefaultCodec> {
                #codec
            }
        }
    });
    let entry = input
        .generics
        .params
        .is_empty()
        .then(|| quote_spanned!(here=> ::jetstream_handlers::__declared_event!(#name; #(#messages),*);));
    quote_spanned! {here=>
        #[automatically_derived]
        impl #generics ::jetstream_handlers::Event for #name #arguments #clause {
            const PATTERNS: &'static [&'static str] = &[#(#patterns),*];
            #version
            #partitions

            fn subject(&self) -> ::core::result::Result<::std::string::String, ::jetstream_handlers::Error> {
                #subject
            }

            fn message_id(&self) -> ::core::option::Option<::std::string::String> {
                #id
            }

            #codec

            #others
        }

        #entry
    }
}

/// Returns the identifier of a field, which may be a keyword.
fn field_ident(name: &str) -> Result<Ident, String> {
    if syn::parse_str::<Ident>(name).is_ok() {
        return Ok(Ident::new(name, Span::mixed_site()));
    }
    match Ident::parse_any.parse_str(name) {
        Ok(_) if !["self", "super", "crate", "Self", "_"].contains(&name) => {
            Ok(Ident::new_raw(name, Span::mixed_site()))
        }
        _ => Err(format!("`{name}` is not the name of a field")),
    }
}

/// A variant of an enum, which contains one value.
struct Wrapper<'a> {
    variant: &'a Variant,
    payload: &'a Type,
    settings: Settings,
}

/// Returns the implementation for an enum: one subject for all variants, or one for each.
fn of_enum(input: &DeriveInput, settings: &Settings, data: &DataEnum, errors: &mut Errors) -> Option<TokenStream> {
    settings.refuse(&["name"], "an enum, but on its variants", errors);
    if settings.subject.is_some() && settings.header.is_none() {
        return tagged(input, settings, data, errors);
    }
    let mut variants = Vec::new();
    for variant in &data.variants {
        let Fields::Unnamed(fields) = &variant.fields else {
            errors.push_spanned(variant, "a variant of an event contains one type, as in `Created(OrderCreated)`");
            continue;
        };
        match fields.unnamed.iter().collect::<Vec<_>>()[..] {
            [field] => {
                let settings = Settings::read(&variant.attrs, errors);
                variants.push(Wrapper { variant, payload: &field.ty, settings });
            }
            _ => errors.push_spanned(variant, "a variant of an event contains one type, as in `Created(OrderCreated)`"),
        }
    }
    if data.variants.is_empty() {
        errors.push_spanned(&input.ident, "an event needs a variant, as in `Created(OrderCreated)`");
    }
    if !errors.is_empty() {
        return None;
    }
    match &settings.subject {
        Some(subject) => by_header(input, settings, subject, &variants, errors),
        None => {
            settings.refuse(
                &["id", "version", "codec", "header", "key", "partitions"],
                "an enum without a `subject`, but on its variants",
                errors,
            );
            by_subject(input, settings, &variants, errors)
        }
    }
}

/// Returns the implementation for an enum whose payload names the variant, as serde's tags do.
fn tagged(input: &DeriveInput, settings: &Settings, data: &DataEnum, errors: &mut Errors) -> Option<TokenStream> {
    for variant in &data.variants {
        if let Some(attribute) = variant.attrs.iter().find(|attribute| attribute.path().is_ident("event")) {
            errors.push_spanned(
                attribute,
                "the enum has a `subject` for all variants; remove that one or this, or add a `header` to the enum",
            );
        }
    }
    let subject = settings.subject.as_ref()?;
    let access = |field: &str| field_of_variants(data, field);
    let filled = filled(settings, subject, &access, errors)?;
    let id = message_id(settings.id.as_ref(), &access, errors)?;
    let messages = [message(subject, &input.ident, &input.ident, &none())];
    Some(implementation(input, &[subject.to_token_stream()], settings, &filled, &id, &TokenStream::new(), &messages))
}

/// Returns an expression for a field that every variant has.
fn field_of_variants(data: &DataEnum, field: &str) -> Result<TokenStream, String> {
    let name = field_ident(field)?;
    let arms = data.variants.iter().map(|variant| {
        let ident = &variant.ident;
        match &variant.fields {
            Fields::Named(fields)
                if fields.named.iter().any(|known| known.ident.as_ref().is_some_and(|it| it.unraw() == field)) =>
            {
                Ok(quote_spanned!(Span::mixed_site()=> Self::#ident { #name, .. } => #name))
            }
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => {
                Ok(quote_spanned!(Span::mixed_site()=> Self::#ident(event) => &event.#name))
            }
            _ => Err(format!("the variant `{ident}` has no field `{field}`")),
        }
    });
    let arms = arms.collect::<Result<Vec<_>, _>>()?;
    Ok(quote_spanned!(Span::mixed_site()=> match self { #(#arms,)* }))
}

/// Returns the implementation for an enum whose variants have one subject, and are told apart by a header.
fn by_header(
    input: &DeriveInput,
    settings: &Settings,
    subject: &LitStr,
    variants: &[Wrapper<'_>],
    errors: &mut Errors,
) -> Option<TokenStream> {
    let header = settings.header.as_ref()?;
    for variant in variants {
        variant.settings.refuse(
            &["subject", "id", "version", "codec", "header", "key", "partitions"],
            "a variant of an enum with a `header`",
            errors,
        );
    }
    let access = |field: &str| {
        let field = field_ident(field)?;
        let arms = variants.iter().map(|Wrapper { variant, .. }| {
            let variant = &variant.ident;
            quote_spanned!(Span::mixed_site()=> Self::#variant(event) => &event.#field)
        });
        Ok(quote_spanned!(Span::mixed_site()=> match self { #(#arms,)* }))
    };
    let filled = filled(settings, subject, &access, errors)?;
    let id = message_id(settings.id.as_ref(), &access, errors)?;
    let names: Vec<String> = variants.iter().map(Wrapper::name).collect();
    let idents: Vec<&Ident> = variants.iter().map(|variant| &variant.variant.ident).collect();
    let arms = names.iter().zip(&idents).map(|(name, ident)| {
        quote_spanned!(Span::mixed_site()=> ::core::option::Option::Some(#name) => ::jetstream_handlers::__private::decoded(message, context, <Self as ::jetstream_handlers::Event>::type_codec()).map(Self::#ident))
    });
    let decode = quote_spanned! {Span::mixed_site()=>
        match message.header(#header) {
            #(#arms,)*
            found => ::core::result::Result::Err(::jetstream_handlers::__private::unknown_header(#header, found, &[#(#names),*])),
        }
    };
    let type_header = quote_spanned! {Span::mixed_site()=>
        fn type_header(&self) -> ::core::option::Option<(&'static str, &'static str)> {
            ::core::option::Option::Some((#header, match self { #(Self::#idents(_) => #names,)* }))
        }
    };
    let messages: Vec<_> = names
        .iter()
        .zip(variants)
        .map(|(name, variant)| {
            let header = quote_spanned!(Span::mixed_site()=> ::core::option::Option::Some((#header, #name)));
            message(subject, variant.payload, &input.ident, &header)
        })
        .collect();
    let event = implementation(input, &[subject.to_token_stream()], settings, &filled, &id, &type_header, &messages);
    Some(wrapped(input, variants, &event, &decode))
}

/// Returns the implementation for an enum whose variants have subjects of their own.
fn by_subject(
    input: &DeriveInput,
    of_enum: &Settings,
    variants: &[Wrapper<'_>],
    errors: &mut Errors,
) -> Option<TokenStream> {
    let (mut patterns, mut subjects, mut ids, mut arms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut versions, mut codecs, mut single, mut messages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Wrapper { variant, payload, settings } in variants {
        settings.refuse(&["header", "name", "version"], "a variant with a subject of its own", errors);
        let ident = &variant.ident;
        let access = |field: &str| {
            let field = field_ident(field)?;
            Ok(quote_spanned!(Span::mixed_site()=> &event.#field))
        };
        let (pattern, subject, id, codec) = match &settings.subject {
            Some(subject) => (
                subject.to_token_stream(),
                filled(settings, subject, &access, errors)?,
                message_id(settings.id.as_ref(), &access, errors)?,
                settings.codec.as_ref().map_or_else(none, codec_value),
            ),
            None => {
                settings.refuse(
                    &["id", "codec", "key", "partitions"],
                    "a variant without a `subject`, whose type is an event",
                    errors,
                );
                let here = Span::mixed_site().located_at(payload.span());
                versions
                    .push(quote_spanned!(here=> Self::#ident(event) => ::jetstream_handlers::Event::version(event)));
                single.push(quote_spanned! {here=>
                    const _: () = ::core::assert!(
                        <#payload as ::jetstream_handlers::Event>::PATTERNS.len() == 1,
                        "a variant of an event contains an event with one subject"
                    );
                });
                (
                    quote_spanned!(here=> <#payload as ::jetstream_handlers::Event>::PATTERN),
                    quote_spanned!(here=> ::jetstream_handlers::Event::subject(event)),
                    quote_spanned!(here=> ::jetstream_handlers::Event::message_id(event)),
                    quote_spanned!(here=> <#payload as ::jetstream_handlers::Event>::type_codec()),
                )
            }
        };
        arms.push(quote_spanned! {Span::mixed_site()=>
            if ::jetstream_handlers::__private::has_pattern(message, context, #pattern) {
                return ::jetstream_handlers::__private::decoded(message, context, #codec).map(Self::#ident);
            }
        });
        messages.push(match settings.subject {
            Some(_) => quote_spanned! {Span::mixed_site()=>
                [#pattern, #payload, #codec, ::core::option::Option::None, ::core::option::Option::None]
            },
            None => message(&pattern, payload, payload, &none()),
        });
        codecs.push(quote_spanned!(Span::mixed_site()=> Self::#ident(_) => #codec));
        patterns.push(pattern);
        subjects.push(quote_spanned!(Span::mixed_site()=> Self::#ident(event) => #subject));
        ids.push(quote_spanned!(Span::mixed_site()=> #[allow(unused_variables)] Self::#ident(event) => #id));
    }
    let (subject, id) = (
        quote_spanned!(Span::mixed_site()=> match self { #(#subjects,)* }),
        quote_spanned!(Span::mixed_site()=> match self { #(#ids,)* }),
    );
    let decode = quote_spanned! {Span::mixed_site()=>
        #(#arms)*
        ::core::result::Result::Err(::jetstream_handlers::__private::unknown_subject(
            message, context, <Self as ::jetstream_handlers::Event>::PATTERNS,
        ))
    };
    let version = quote_spanned! {Span::mixed_site()=>
        fn version(&self) -> ::core::option::Option<u32> {
            match self {
                #(#versions,)*
                #[allow(unreachable_patterns)]
                _ => ::core::option::Option::None,
            }
        }
    };
    let others = quote_spanned! {Span::mixed_site()=>
        #version

        fn event_codec(&self) -> ::core::option::Option<::jetstream_handlers::__private::DefaultCodec> {
            match self { #(#codecs,)* }
        }
    };
    let event = implementation(input, &patterns, of_enum, &subject, &id, &others, &messages);
    let wrapped = wrapped(input, variants, &event, &decode);
    Some(quote_spanned!(Span::mixed_site()=> #(#single)* #wrapped))
}

/// Returns the implementations for an enum whose payload is that of its variant.
fn wrapped(input: &DeriveInput, variants: &[Wrapper<'_>], event: &TokenStream, decode: &TokenStream) -> TokenStream {
    let name = &input.ident;
    let (generics, arguments, clause) = input.generics.split_for_impl();
    let idents = variants.iter().map(|variant| &variant.variant.ident);
    quote_spanned! {Span::mixed_site()=>
        #event

        #[automatically_derived]
        impl #generics ::jetstream_handlers::__private::Serialize for #name #arguments #clause {
            fn serialize<__S: ::jetstream_handlers::__private::Serializer>(
                &self,
                serializer: __S,
            ) -> ::core::result::Result<__S::Ok, __S::Error> {
                match self {
                    #(Self::#idents(event) => ::jetstream_handlers::__private::Serialize::serialize(event, serializer),)*
                }
            }
        }

        #[automatically_derived]
        impl #generics ::jetstream_handlers::FromMessage for #name #arguments #clause {
            fn from_message(
                message: &::jetstream_handlers::Message,
                context: &::jetstream_handlers::Context,
            ) -> ::core::result::Result<Self, ::jetstream_handlers::Rejection> {
                #decode
            }

            fn needs_content() -> bool {
                true
            }
        }
    }
}

impl Wrapper<'_> {
    /// Returns the value of the header for the variant.
    fn name(&self) -> String {
        self.settings.name.as_ref().map_or_else(|| self.variant.ident.unraw().to_string(), LitStr::value)
    }
}
