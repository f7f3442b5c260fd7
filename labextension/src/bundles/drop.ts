import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';

/** Of what files are dragged over. */
const CLASS = 'jp-cr-mod-drop';

/**
 * Have files dropped on an element.
 *
 * @param label What is shown meanwhile.
 * @returns Ends it.
 */
export function acceptFiles(
  node: HTMLElement,
  label: string,
  take: (files: File[]) => void
): IDisposable {
  const hasFiles = (event: DragEvent) =>
    event.dataTransfer?.types.includes('Files') ?? false;
  const show = (event: DragEvent) => {
    if (hasFiles(event)) {
      event.preventDefault();
      event.dataTransfer!.dropEffect = 'copy';
      node.classList.add(CLASS);
    }
  };
  const leave = (event: DragEvent) => {
    if (!node.contains(event.relatedTarget as Node | null)) {
      node.classList.remove(CLASS);
    }
  };
  const drop = (event: DragEvent) => {
    node.classList.remove(CLASS);
    if (hasFiles(event)) {
      event.preventDefault();
      event.stopPropagation();
      take([...event.dataTransfer!.files]);
    }
  };
  node.dataset.drop = label;
  node.addEventListener('dragenter', show);
  node.addEventListener('dragover', show);
  node.addEventListener('dragleave', leave);
  node.addEventListener('drop', drop);
  return new DisposableDelegate(() => {
    node.removeEventListener('dragenter', show);
    node.removeEventListener('dragover', show);
    node.removeEventListener('dragleave', leave);
    node.removeEventListener('drop', drop);
  });
}
