// Decodes the server's pictures for a canvas.

const TINY = 96; // pixels of width up to which a picture is scaled without smoothing

/** A raw RGB picture as ImageData. */
export function rawPicture(bytes, width, height) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer); // browsers run only on little-endian machines
  for (let i = 0, at = 0; i < pixels.length; i++, at += 3) {
    pixels[i] = 0xff000000 | (bytes[at + 2] << 16) | (bytes[at + 1] << 8) | bytes[at];
  }
  return image;
}

/** A coded picture (JPEG, WebP, PNG). */
export function codedPicture(bytes, type) {
  return createImageBitmap(new Blob([bytes], { type }));
}

/** Draws a picture over the whole of a canvas, which takes its size. */
export function draw(canvas, picture) {
  const { width, height } = picture;
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
    canvas.classList.toggle("smooth", width > TINY);
  }
  put(canvas.getContext("2d"), picture, 0, 0, width, height);
}

/** A canvas with a chunk's first frame above and its state below, at most 96 pixels wide. */
export function thumbnail(chunk) {
  const picture = chunk.frames[0];
  const scale = Math.min(1, TINY / picture.width);
  const width = Math.round(picture.width * scale);
  const height = Math.round(picture.height * scale);
  const gap = Math.max(1, Math.round(width / 32));
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = chunk.states.length ? height * 2 + gap : height;
  canvas.classList.toggle("smooth", scale < 1);
  const context = canvas.getContext("2d");
  put(context, picture, 0, 0, width, height);
  if (chunk.states.length) put(context, chunk.states[0], 0, height + gap, width, height);
  return canvas;
}

function put(context, picture, x, y, width, height) {
  if (!(picture instanceof ImageData)) context.drawImage(picture, x, y, width, height);
  else if (picture.width === width && picture.height === height) context.putImageData(picture, x, y);
  else {
    const whole = new OffscreenCanvas(picture.width, picture.height);
    whole.getContext("2d").putImageData(picture, 0, 0);
    context.drawImage(whole, x, y, width, height);
  }
}
